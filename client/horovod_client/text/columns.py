"""Tables for terminals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from horovod_client.text.terminal import printable_line


def in_columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """
    Format each row as a line; every column is as wide as its longest cell.

    Args:
        rows: At least one row, all of the same length; the first may be the heading.
    """
    rows = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
