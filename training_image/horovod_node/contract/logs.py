"""A training's log group. Its streams are named after the run, the node, and the writer."""

from __future__ import annotations

from typing import Final

LOG_AGENT: Final = "agent"
LOG_METRICS: Final = "metrics"
"""Lines in CloudWatch's embedded metric format."""
LOG_RANK_PREFIX: Final = "rank-"


def log_stream(run: str, node: str, speaker: str) -> str:
    """Return a node's log stream of *speaker*: `LOG_AGENT`, `LOG_METRICS`, or `LOG_RANK_PREFIX` and a number."""
    return f"{run}/{node}/{speaker}"
