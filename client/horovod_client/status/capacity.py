"""What a run that looks for capacity tells of it, and what a run that started again tells of the attempts it lost."""

from __future__ import annotations

from dataclasses import dataclass

from horovod_client.aws.ledger_items import Item, json_of
from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class CapacitySearch:
    """
    The attempt to get nodes that a run makes now.

    Args:
        number: Which one it is, from 1.
        of: How many its fleet's plan has.
        attempt: What is tried: `Spot in any zone`.
        since: Epoch seconds at which it began.
        refusal: What EC2 said to the attempt before it; '' when it was not refused.
    """

    number: int
    of: int
    attempt: str
    since: int
    refusal: str = ""

    @classmethod
    def from_item(cls, item: Item) -> CapacitySearch | None:
        """Read the search out of a run's item in the ledger; None before the run looks for nodes."""
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
    An attempt of a run that was lost, after which it started again.

    Args:
        attempt: Which one it was, from 1.
        error: Name of the error that ended it.
        cause: What that error said.
        at: When, in ISO 8601.
    """

    attempt: int
    error: str
    cause: str
    at: str

    @classmethod
    def all_of(cls, item: Item) -> tuple[LostAttempt, ...]:
        """Read them out of a run's item in the ledger, the first one first."""
        return tuple(
            cls(
                attempt=int(lost["attempt"]),
                error=str(lost["error"]),
                cause=str(lost["cause"]),
                at=str(lost["at"]),
            )
            for lost in json_of(item, contract.RESTARTS_JSON) or ()
        )
