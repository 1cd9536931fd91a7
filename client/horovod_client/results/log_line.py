"""One line of a run's logs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """
    What an agent or a rank printed.

    Args:
        at: Epoch seconds.
        node: The node that it was printed on.
        speaker: `agent`, or `rank-` and a number, as in the log stream's name.
        text: The line, without its end.
    """

    at: float
    node: str
    speaker: str
    text: str
