"""A run that was started: watch it, wait for it, stop it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from horovod_client.capacity import CapacitySearch, LostAttempt
from horovod_client.clients import AwsClients
from horovod_client.connection import Connection
from horovod_client.errors import InvalidInput, ReceiptNotFound, RunEnded, RunFailed, RunNotFound
from horovod_client.status import RUNNING, SUCCEEDED, RunStatus
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

    from horovod_client.client import TrainingClient

STOPPED_ERROR: Final = "StoppedByUser"
"""The error of an execution that `Run.stop` ended."""

NAME_PATTERN: Final = r"[A-Za-z0-9_-]{1,80}"
"""What Step Functions takes as an execution's name and CloudWatch Logs can log; safe in ledger and S3 keys, too."""


def checked_name(name: str) -> str:
    """
    Return *name* if it can be a run's.

    Args:
        name: What a user typed.

    Raises:
        InvalidInput: If it cannot.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidInput(f"'name' must be 1 to 80 letters, digits, '-' and '_', got '{name}'")
    return name


@dataclass(frozen=True, kw_only=True)
class Run:
    """
    One run of a training. It goes on in AWS whatever becomes of this object.

    Args:
        name: Name of the run, and of its execution.
        connection: The training that runs it.
        clients: What to call AWS through.
    """

    name: str
    connection: Connection = field(repr=False)
    clients: AwsClients = field(repr=False)

    @classmethod
    def from_id(cls, name: str, *, client: TrainingClient) -> Run:
        """
        Find a run again by its name. Calls nothing: whether there is such a run, its `status` tells.

        Args:
            name: Name of the run.
            client: The training that it ran on.

        Raises:
            InvalidInput: If *name* cannot be a run's.
        """
        return cls(name=checked_name(name), connection=client.connection, clients=client.clients)

    @property
    def execution_arn(self) -> str:
        """ARN of the execution."""
        return self.connection.execution_arn(self.name)

    @property
    def model_uri(self) -> str:
        """S3 address at which the model is once the run succeeded."""
        return f"s3://{self.connection.model_bucket}/{contract.model_key(self.name)}"

    def status(self) -> RunStatus:
        """
        Ask Step Functions for the state and the ledger for the rest.

        Raises:
            RunNotFound: If the training has no such run.
        """
        stepfunctions = self.clients.stepfunctions
        try:
            execution = stepfunctions.describe_execution(executionArn=self.execution_arn)
        except stepfunctions.exceptions.ExecutionDoesNotExist as error:
            raise RunNotFound(f"there is no run '{self.name}' (Step Functions forgets runs after 90 days)") from error
        state = execution["status"]
        item = self._read(contract.run_key(self.name))
        stage = item[contract.STAGE]["S"] if contract.STAGE in item else None
        waits = state == RUNNING and stage == contract.STAGE_QUEUED
        looks = state == RUNNING and stage == contract.STAGE_JOINING
        return RunStatus(
            run=self.name,
            state=state,
            stage=stage,
            error=execution.get("error"),
            cause=execution.get("cause"),
            model_uri=self.model_uri if state == SUCCEEDED else None,
            notice=item[contract.NOTICE]["S"] if contract.NOTICE in item else None,
            place=self._place() if waits else None,
            capacity=CapacitySearch.from_item(item) if looks else None,
            restarts=LostAttempt.all_of(item),
        )

    def wait(self, on_change: Callable[[RunStatus], object] | None = None, *, poll_seconds: float = 5.0) -> RunStatus:
        """
        Wait until the run ends.

        Args:
            on_change: Called with the first status and with every one that differs from the one before.
            poll_seconds: Seconds between two looks.

        Raises:
            RunFailed: If the run ended without a model.
            RunNotFound: If the training has no such run.
        """
        seen: RunStatus | None = None
        while True:
            status = self.status()
            if status != seen and on_change is not None:
                on_change(status)
            seen = status
            if status.ended:
                break
            time.sleep(poll_seconds)
        if not status.succeeded:
            raise RunFailed(run=self.name, state=status.state, error=status.error, cause=status.cause)
        return status

    def receipt(self) -> dict[str, Any]:
        """
        Read the record of the run, which the state machine wrote, or for a run that was stopped the clean-up.

        Raises:
            ReceiptNotFound: If it is not there: it is written when the run ends.
        """
        s3 = self.clients.s3
        try:
            answer = s3.get_object(Bucket=self.connection.model_bucket, Key=contract.receipt_key(self.name))
        except s3.exceptions.NoSuchKey as error:
            raise ReceiptNotFound(f"run '{self.name}' has no receipt: it is written when the run ends") from error
        receipt: dict[str, Any] = json.loads(answer["Body"].read())
        return receipt

    def stop(self, cause: str = "stopped by a user") -> None:
        """
        Stop the run.

        Args:
            cause: Why, for whoever looks at the run later.

        Raises:
            RunEnded: If the run was over.
            RunNotFound: If the training has no such run.
        """
        status = self.status()
        if status.ended:
            raise RunEnded(f"run '{self.name}' has ended: {status.state}")
        self.clients.stepfunctions.stop_execution(executionArn=self.execution_arn, error=STOPPED_ERROR, cause=cause)

    def _place(self) -> int | None:
        line = self._read(contract.line_key(self.connection.queue))
        # Of two that came in the same millisecond, the state machine takes the one whose name comes first.
        places = {
            name.removeprefix(contract.PLACE_PREFIX): int(value["N"])
            for name, value in line.items()
            if name.startswith(contract.PLACE_PREFIX)
        }
        if self.name not in places:
            return None
        return 1 + sorted(places, key=lambda run: (places[run], run)).index(self.name)

    def _read(self, key: tuple[str, str]) -> dict[str, AttributeValueTypeDef]:
        partition, sort = key
        return self.clients.dynamodb.get_item(
            TableName=self.connection.ledger_table,
            Key={contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}},
            ConsistentRead=True,
        ).get("Item", {})
