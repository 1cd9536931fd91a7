"""Where a drill happens: an account, or the local cloud; the drill is the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

STACK: Final = "HorovodProof"
"""Name of the drill's stack, which is its own."""


class StepFailed(Exception):  # noqa: N818 - it says what happened
    """A step of the drill did not see what it had to; the text says what it saw."""


@dataclass(frozen=True, kw_only=True)
class Paces:
    """
    Times of the drill's training, in seconds unless it says otherwise, and how long the drill waits.

    Args:
        heartbeat: A silent leader is given up after this long.
        lease: A node stays this long without a valid lease.
        reaper: Between two looks of the reaper; whole minutes of the schedule, in the place's own clock.
        start: The ring must be there after this long.
        poll: Between two looks at nodes that go away.
        look: Between two looks of the drill.
        settle: How long an execution of the reaper that has begun may still act after its rule was disabled.
        patience: What the drill adds to every limit.
        epochs: Of the run that ends by itself.
        long_epochs: Of the runs that are stopped.
        elastic_epochs: Of the run that is interrupted: long enough for two minutes' notice and a new ring.
    """

    heartbeat: int = 60
    lease: int = 300
    reaper: float = 60
    start: int = 1200
    poll: int = 15
    look: float = 10
    settle: float = 60
    patience: float = 300
    epochs: int = 20
    long_epochs: int = 100_000
    elastic_epochs: int = 400


class Place(Protocol):
    """What differs between an account and the local cloud."""

    name: str
    local: bool
    paces: Paces

    def on_demand_usd(self) -> float:
        """Look up what an instance of the drill costs, in USD an hour."""

    def deploy(self) -> None:
        """Deploy the stack `STACK`; raise `StepFailed` with the words of the tool."""

    def destroy(self) -> None:
        """Delete the stack; raise `StepFailed` with the words of the tool."""

    def client(self, service: str) -> Any:
        """Return a boto3 client of the place."""

    def training(self) -> Any:
        """Connect to the training."""

    def interrupt(self, instance: str) -> dict[str, str]:
        """Have EC2 take a Spot Instance back, with two minutes' notice; return what to report."""

    def tidy(self) -> list[str]:
        """Remove what `interrupt` made, and say what could not be removed."""
