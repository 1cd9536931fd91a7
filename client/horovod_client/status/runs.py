"""List of a training's runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from horovod_client.aws.ledger_items import Item, read_items, text_of
from horovod_client.errors import InvalidInput
from horovod_client.status.run_ids import id_of
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions.type_defs import ExecutionListItemTypeDef

    from horovod_client.client import TrainingClient

PAGE: Final = 100
"""Items of one BatchGetItem (DynamoDB's limit), and executions of one ListExecutions."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """
    Summary of a run in a list.

    Args:
        name: Name of the run.
        state: State of its execution, as in a `RunStatus`.
        stage: Current or last stage; None while the request is not recorded, or if it was refused.
        gpus: GPUs of the request; None if unknown.
        started_at: Start of the execution, in epoch seconds.
        ended_at: End of the execution, in epoch seconds; None while it runs.
        owner: Owner in the request, if any.
        project: Project in the request, if any.
    """

    name: str
    state: str
    stage: str | None
    gpus: int | None
    started_at: float
    ended_at: float | None
    owner: str | None
    project: str | None


def list_runs(client: TrainingClient, *, limit: int = 20) -> tuple[RunSummary, ...]:
    """
    List the newest runs of a training, the newest first.

    Step Functions and the ledger keep them for 90 days.

    Args:
        client: Client of the training.
        limit: Largest number of runs. Default: 20.

    Raises:
        InvalidInput: If *limit* is less than 1.
    """
    if limit < 1:
        raise InvalidInput(f"'limit' must be at least 1, got {limit}")
    executions = _executions(client, limit=limit)
    keys = [
        contract.run_key(id_of(execution["name"], execution["startDate"], connection=client.connection))
        for execution in executions
    ]
    items: dict[str, Item] = {}
    for first in range(0, len(keys), PAGE):
        items |= {
            item[contract.PARTITION_KEY]["S"]: item
            for item in read_items(
                client.clients.dynamodb, table=client.connection.ledger_table, keys=keys[first : first + PAGE]
            )
        }
    return tuple(_summary(execution, items.get(key, {})) for execution, (key, _) in zip(executions, keys, strict=True))


def _executions(client: TrainingClient, *, limit: int) -> Sequence[ExecutionListItemTypeDef]:
    """List the newest executions; Step Functions returns the newest first."""

    def pages() -> Iterator[ExecutionListItemTypeDef]:
        token: dict[str, Any] = {}
        while True:
            answer = client.clients.stepfunctions.list_executions(
                stateMachineArn=client.connection.state_machine, maxResults=min(limit, PAGE), **token
            )
            yield from answer["executions"]
            if "nextToken" not in answer:
                return
            token = {"nextToken": answer["nextToken"]}

    return [execution for execution, _ in zip(pages(), range(limit), strict=False)]


def _summary(execution: ExecutionListItemTypeDef, item: Item) -> RunSummary:
    request: Mapping[str, Any] = json.loads(text_of(item, contract.REQUEST_JSON) or "{}")
    ended = execution.get("stopDate")
    return RunSummary(
        name=execution["name"],
        state=execution["status"],
        stage=text_of(item, contract.STAGE),
        gpus=request.get(contract.GPUS),
        started_at=execution["startDate"].timestamp(),
        ended_at=None if ended is None else ended.timestamp(),
        owner=request.get(contract.OWNER),
        project=request.get(contract.PROJECT),
    )
