"""Where the lines go that ranks print."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable

from horovod_node import contract
from horovod_node.log_shipping import LogShipping

RankOutput = Callable[[int, str], None]
"""Takes a rank's number at that time and a line that it printed; called from a thread for each rank, must not fail."""

_printing = threading.Lock()


def print_line(rank: int, line: str) -> None:
    """Print a rank's line among the agent's own, after the rank's number."""
    # Whoever read our output may be gone: a rank must not stop because nobody takes its lines.
    with _printing, contextlib.suppress(OSError):
        sys.stdout.write(f"[{rank}] {line}")
        sys.stdout.flush()


def ship_lines(shipping: LogShipping, *, echo: bool) -> RankOutput:
    """
    Give what sends ranks' lines to log streams of their own.

    Args:
        shipping: What takes them.
        echo: Whether they are printed, too.
    """

    def take(rank: int, line: str) -> None:
        shipping.take(f"{contract.LOG_RANK_PREFIX}{rank}", line)
        if echo:
            print_line(rank, line)

    return take
