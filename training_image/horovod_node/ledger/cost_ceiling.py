"""A run's cost ceiling, and when the run must stop to stay below it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from horovod_node import contract

LONGEST_MARGIN_SECONDS = 120.0
"""Longest time before the ceiling: enough to write a last checkpoint and to upload some gigabytes of it to S3."""
LARGEST_MARGIN = 0.1
"""Largest part of the paid time: even a run that reaches its ceiling within minutes trains for nine tenths of it."""


@dataclass(frozen=True, kw_only=True)
class CostCeiling:
    """
    The cost ceiling of a run whose prices are known.

    Args:
        usd_per_hour: Price of the ring's instances together.
        billed_from: Earliest epoch second at which billing can have begun.
        usd: The ceiling.
        at: Epoch seconds at which the cost reaches the ceiling; the instances terminate themselves then.
    """

    usd_per_hour: float
    billed_from: float
    usd: float
    at: float

    @property
    def stop_at(self) -> float:
        """Epoch seconds at which the ranks must be told to stop."""
        return self._before(1.0)

    @property
    def ranks_end_at(self) -> float:
        """Epoch seconds at which the ranks are killed: half of the margin is theirs, to write a last checkpoint."""
        return self._before(0.5)

    @property
    def upload_ends_at(self) -> float:
        """Epoch seconds at which uploads must end: a tenth of the margin is left to report the result."""
        return self._before(0.1)

    def percent_used(self, now: float) -> float:
        """Return the percentage of the ceiling that is spent at *now*, in epoch seconds."""
        return 100 * max(0.0, now - self.billed_from) / max(1.0, self.at - self.billed_from)

    def explain(self, now: float) -> str:
        """Return sentences on the run's price, its cost at *now* (epoch seconds) and its ceiling."""
        spent = self.usd_per_hour * (now - self.billed_from) / 3600
        time = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return (
            f"The run's instances cost {_usd(self.usd_per_hour)} USD an hour and had cost {_usd(spent)} USD at {time}; "
            f"its {contract.MAX_COST_USD} is {self.usd:g} USD."
        )

    def _before(self, part: float) -> float:
        margin = min(LONGEST_MARGIN_SECONDS, LARGEST_MARGIN * (self.at - self.billed_from))
        return self.at - part * margin


def _usd(amount: float) -> str:
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.3g}"
