"""What a run may cost, and when it must stop so that it costs no more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from horovod_node import contract

LONGEST_MARGIN_SECONDS = 120.0
"""Before the ceiling: enough to write a last checkpoint and to bring some gigabytes of it to S3."""
LARGEST_MARGIN = 0.1
"""A run that reaches its ceiling within minutes trains for nine tenths of what it pays for."""


@dataclass(frozen=True, kw_only=True)
class CostCeiling:
    """
    The cost ceiling of a run whose prices are known.

    Args:
        usd_per_hour: What the ring's instances cost together.
        billed_from: Epoch seconds at which their bill can have begun.
        usd: What the run may cost.
        at: Epoch seconds at which it will have cost that; instances take themselves out then.
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
        """Epoch seconds at which no rank may run any more: half of the margin is theirs, for a last checkpoint."""
        return self._before(0.5)

    @property
    def upload_ends_at(self) -> float:
        """Epoch seconds at which the checkpoints must be in S3: a tenth of the margin is left to say so."""
        return self._before(0.1)

    def percent_used(self, now: float) -> float:
        """Tell how much of the ceiling is spent *now*, in epoch seconds."""
        return 100 * max(0.0, now - self.billed_from) / max(1.0, self.at - self.billed_from)

    def explain(self, now: float) -> str:
        """Say what the run had cost *now*, in epoch seconds."""
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
