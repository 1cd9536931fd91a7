"""Items of the ledger, which the client reads and never writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

    Item = Mapping[str, AttributeValueTypeDef]
else:
    Item = Mapping


def text_of(item: Item, name: str) -> str | None:
    """Read a string; None if *item* has none of this *name*."""
    return item[name]["S"] if name in item else None


def number_of(item: Item, name: str) -> float | None:
    """Read a number; None if *item* has none of this *name*."""
    return float(item[name]["N"]) if name in item else None


def json_of(item: Item, name: str) -> Any:
    """Read a JSON text; None if *item* has none of this *name*."""
    return json.loads(item[name]["S"]) if name in item else None


@dataclass(frozen=True, kw_only=True)
class RunItems:
    """
    The ledger's items of one run.

    Args:
        run: The run's own item; empty before the state machine has recorded the request.
        attempt: The newest attempt with an item; 0 if there is none.
        nodes: Items of nodes, by attempt and node.
        boots: Items of booting instances, by node.
        leaders: The leading node, by attempt.
        progress: The training's progress; empty before its first step.
    """

    run: Item = field(default_factory=dict)
    attempt: int = 0
    nodes: Mapping[tuple[int, str], Item] = field(default_factory=dict)
    boots: Mapping[str, Item] = field(default_factory=dict)
    leaders: Mapping[int, str] = field(default_factory=dict)
    progress: Item = field(default_factory=dict)

    @classmethod
    def of(cls, items: Iterable[Item]) -> RunItems:
        """
        Sort the items of a run by their kinds.

        Args:
            items: All items, in any order; kinds that a client does not need are skipped.
        """
        run: Item = {}
        progress: Item = {}
        nodes: dict[tuple[int, str], Item] = {}
        boots: dict[str, Item] = {}
        leaders: dict[int, str] = {}
        attempts = {0}
        for item in items:
            kind, _, rest = item[contract.SORT_KEY]["S"].partition("#")
            number, _, name = rest.partition("#")
            if kind == contract.RUN_SORT_KEY:
                run = item
            elif kind == contract.PROGRESS_SORT_KEY:
                progress = item
            elif f"{kind}#" == contract.BOOT_PREFIX:
                boots[rest] = item
            elif number.isdecimal():
                attempts.add(int(number))
                if f"{kind}#" == contract.NODE_PREFIX:
                    nodes[int(number), name] = item
                elif f"{kind}#" == contract.LEADER_PREFIX:
                    leaders[int(number)] = item[contract.NODE]["S"]
        return cls(run=run, attempt=max(attempts), nodes=nodes, boots=boots, leaders=leaders, progress=progress)


def read_run(dynamodb: DynamoDBClient, *, table: str, run_id: str) -> RunItems:
    """
    Read the item of a run with GetItem, and those of its nodes with a Query for each fleet that it had, in pages.

    Args:
        dynamodb: Client of the ledger's region.
        table: Name of the ledger's table.
        run_id: Id of the run.
    """
    partition, sort = contract.run_key(run_id)
    key = {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}
    run: Item | None = dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")
    if run is None:
        return RunItems()
    # The last fleet comes last: its progress is the run's.
    fleets = dict.fromkeys([*fleets_left(run), text_of(run, contract.FLEET)])
    partitions = [contract.nodes_partition(fleet, run_id) for fleet in fleets if fleet is not None]
    found = (item for partition in partitions for item in _query(dynamodb, table=table, partition=partition))
    return RunItems.of([run, *found])


def fleets_left(run: Item) -> list[str]:
    """Name the fleets that a run has left to go on with those of another engine."""
    return [fleet["id"] for fleet in (json_of(run, contract.LEFT_JSON) or {}).get("fleets", ())]


def read_items(dynamodb: DynamoDBClient, *, table: str, keys: Sequence[tuple[str, str]]) -> Iterator[Item]:
    """
    Read the existing items of *keys* with BatchGetItem, in any order.

    Args:
        dynamodb: Client of the ledger's region.
        table: Name of the ledger's table.
        keys: Partition and sort key of each; at most 100.
    """
    wanted: Any = {
        table: {
            "ConsistentRead": True,
            "Keys": [
                {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}} for partition, sort in keys
            ],
        }
    }
    while wanted and keys:
        answer = dynamodb.batch_get_item(RequestItems=wanted)
        yield from answer["Responses"].get(table, [])
        wanted = answer.get("UnprocessedKeys")


def _query(dynamodb: DynamoDBClient, *, table: str, partition: str) -> Iterator[Item]:
    start: dict[str, Any] = {}
    while True:
        answer = dynamodb.query(
            TableName=table,
            ConsistentRead=True,
            KeyConditionExpression="#pk = :pk",
            ExpressionAttributeNames={"#pk": contract.PARTITION_KEY},
            ExpressionAttributeValues={":pk": {"S": partition}},
            **start,
        )
        yield from answer["Items"]
        if not answer.get("LastEvaluatedKey"):
            return
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
