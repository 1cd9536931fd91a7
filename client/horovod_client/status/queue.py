"""The queue of runs that wait for a fleet, and the holders of the fleets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from horovod_client.aws.connection import Connection
from horovod_client.aws.ledger_items import Item, number_of, read_items, text_of
from horovod_client.status.run_status import Holder
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


@dataclass(frozen=True, kw_only=True)
class Queue:
    """
    Position of a run in the queue.

    Args:
        place: Place in the queue, 1 for the next run; None if the run is not in it.
        holders: Holders of the fleets that fit the run.
    """

    place: int | None = None
    holders: tuple[Holder, ...] = ()


def read_queue(dynamodb: DynamoDBClient, connection: Connection, *, run: str, gpus: int | None) -> Queue:
    """
    Read the queue and the leases in one call.

    Args:
        dynamodb: Client of the ledger's Region.
        connection: Connection to the training.
        run: Name of the queued run.
        gpus: GPUs of its request; with None every fleet counts as one that fits.
    """
    fleets = [fleet.id for fleet in connection.fleets if gpus is None or fleet.fits(gpus)]
    keys = [contract.queue_key(connection.queue), *(contract.lease_key(fleet) for fleet in fleets)]
    items = {
        item[contract.PARTITION_KEY]["S"]: item
        for item in read_items(dynamodb, table=connection.ledger_table, keys=keys)
    }
    queue = items.get(contract.queue_key(connection.queue)[0], {})
    return Queue(place=place_of(queue, run=run), holders=holders_of(items, fleets=fleets))


def place_of(queue: Item, *, run: str) -> int | None:
    """
    Return the place of *run*: 1 for the next run, None if it is not in the queue.

    Runs that arrived in the same millisecond are sorted by name, as in the state machine.
    """
    places = {
        name.removeprefix(contract.PLACE_PREFIX): int(value["N"])
        for name, value in queue.items()
        if name.startswith(contract.PLACE_PREFIX)
    }
    if run not in places:
        return None
    return 1 + sorted(places, key=lambda name: (places[name], name)).index(run)


def holders_of(items: dict[str, Item], *, fleets: Iterable[str]) -> tuple[Holder, ...]:
    """List the holders of *fleets*, from their leases in *items* by partition key; free fleets are left out."""
    holders = []
    for fleet in fleets:
        lease = items.get(contract.lease_key(fleet)[0])
        run = None if lease is None else text_of(lease, contract.RUN)
        if lease is not None and run is not None:
            since = number_of(lease, contract.ACQUIRED_AT)
            holders.append(Holder(fleet=fleet, run=run, since=None if since is None else int(since)))
    return tuple(holders)
