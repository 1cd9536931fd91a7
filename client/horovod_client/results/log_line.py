"""One line of a run's logs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """
    A line that an agent or a rank printed.

    Args:
        at: Time of the line, in epoch seconds.
        node: Name of the node.
        speaker: `agent` or `rank-N`, as in the log stream's name.
        text: The line without its line break.
    """

    at: float
    node: str
    speaker: str
    text: str
