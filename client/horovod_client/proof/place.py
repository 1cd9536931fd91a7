"""The place of a drill: an AWS account, or the local cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

STACK: Final = "HorovodProof"
"""Name of the drill's own stack."""


class StepFailed(Exception):  # noqa: N818 - it says what happened
    """A step of the drill failed; the text says what it observed."""


@dataclass(frozen=True, kw_only=True)
class Paces:
    """
    Times of the drill and its training, in seconds, and epochs of its runs.

    Args:
        heartbeat: `heartbeat` of the training.
        lease: `lease_timeout` of the training.
        reaper: Interval of the reaper in the place's own time; its schedule has whole minutes.
        start: `start_timeout` of the training.
        poll: `poll_interval` of the training.
        look: Interval of the drill's polls.
        settle: How long a running execution of the reaper may still act after its rule was disabled.
        patience: Extra time that the drill adds to every limit.
        epochs: Epochs of the run that ends by itself.
        long_epochs: Epochs of the runs that are stopped.
        elastic_epochs: Epochs of the interrupted run, which must outlast the two minutes' notice and a ring reset.
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
    """Operations that differ between an AWS account and the local cloud."""

    name: str
    engine: str
    local: bool
    paces: Paces

    def on_demand_usd(self) -> float:
        """Look up the On-Demand price of the drill's instance type, in USD an hour."""

    def deploy(self) -> None:
        """Deploy the stack `STACK`; raise `StepFailed` with the tool's message if that fails."""

    def destroy(self) -> None:
        """Delete the stack; raise `StepFailed` with the tool's message if that fails."""

    def client(self, service: str) -> Any:
        """Return a boto3 client for the place."""

    def training(self) -> Any:
        """Return a client of the deployed training."""

    def interrupt(self, instance: str) -> dict[str, str]:
        """Interrupt a Spot Instance, with two minutes' notice; return values for the report."""

    def tidy(self) -> list[str]:
        """Remove the resources that `interrupt` created; return a line for each that could not be removed."""
