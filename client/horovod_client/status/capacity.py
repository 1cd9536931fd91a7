"""A run's search for capacity, and its lost attempts, from its ledger item."""

from __future__ import annotations

from dataclasses import dataclass

from horovod_client.aws.ledger_items import Item, json_of
from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class CapacitySearch:
    """
    A run's current attempt to get nodes.

    Args:
        number: Number of the attempt in the fleet's capacity plan, from 1.
        of: Number of attempts in the plan.
        attempt: Description of the attempt, such as `Spot in any zone`.
        since: Start of the attempt, in epoch seconds.
        refusal: EC2's message about the previous attempt; '' if there was none.
    """

    number: int
    of: int
    attempt: str
    since: int
    refusal: str = ""

    @classmethod
    def from_item(cls, item: Item) -> CapacitySearch | None:
        """Read the search from a run's ledger item; None before the run requests nodes."""
        found = json_of(item, contract.CAPACITY_JSON)
        if found is None:
            return None
        return cls(
            number=int(found["number"]),
            of=int(found["of"]),
            attempt=str(found["attempt"]),
            since=int(found["since"]),
            refusal=str(found["refusal"]),
        )


@dataclass(frozen=True, kw_only=True)
class LostAttempt:
    """
    A lost attempt of a run, after which the run restarted.

    Args:
        attempt: Number of the attempt, from 1.
        error: Name of the error that ended it.
        cause: Cause of the error.
        at: Time of the loss, in ISO 8601.
    """

    attempt: int
    error: str
    cause: str
    at: str

    @classmethod
    def all_of(cls, item: Item) -> tuple[LostAttempt, ...]:
        """Read the lost attempts from a run's ledger item, the earliest first."""
        return tuple(
            cls(
                attempt=int(lost["attempt"]),
                error=str(lost["error"]),
                cause=str(lost["cause"]),
                at=str(lost["at"]),
            )
            for lost in json_of(item, contract.RESTARTS_JSON) or ()
        )
