"""Tables for terminals."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from horovod_client.text.terminal import printable_line

_GAP = "  "


def in_columns(rows: Sequence[Sequence[str]], *, width: int | None = None) -> Iterator[str]:
    """
    Format each row as a line; every column is as wide as its longest cell.

    Args:
        rows: At least one row, all of the same length; the first may be the heading.
        width:
            Most characters of a line. Columns other than the first share what it leaves of them, and a cell that is
            longer continues on the next line. Default: no limit.
    """
    rows = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None and len(widths) > 1:
        first, *others = widths
        share = max(1, (width - first) // len(others) - len(_GAP))
        widths = [first, *(min(share, longest) for longest in others)]
    for row in rows:
        cells = [_wrapped(cell, limit) for cell, limit in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            yield _GAP.join(part.ljust(limit) for part, limit in zip(parts, widths, strict=True)).rstrip()


def _wrapped(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width) if len(cell) > width else [cell]
