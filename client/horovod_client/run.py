"""`Run`, which represents a started run: its status, logs, model, cost and receipt."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from horovod_client.aws.clients import AwsClients, new_session
from horovod_client.aws.connection import Connection, find_connection
from horovod_client.aws.retry import PATIENCE_SECONDS, keep_trying
from horovod_client.errors import InvalidInput, ModelNotFound, ReceiptNotFound, RunEnded, RunFailed
from horovod_client.results.log_line import LogLine
from horovod_client.results.logs import RunLogs, Selection
from horovod_client.results.model import checked_target, download_model
from horovod_client.status.reader import describe_execution, model_uri, read_status
from horovod_client.status.run_ids import find_id
from horovod_client.status.run_status import FAILED, RunStatus, Spend, is_over
from horovod_client.status.spend import spend_of_receipt
from horovod_node import contract

if TYPE_CHECKING:
    from horovod_client.client import TrainingClient

STOPPED_ERROR: Final = "StoppedByUser"
"""The error of an execution that `Run.stop` ended."""


def checked_name(name: str) -> str:
    """
    Return *name* if it is a valid name of a run.

    Args:
        name: Name to check.

    Raises:
        InvalidInput: If it is not valid.
    """
    if not re.fullmatch(contract.RUN_NAME_PATTERN, name):
        raise InvalidInput(f"'name' {contract.RUN_NAME_RULE}, got '{name}'")
    return name


@dataclass(frozen=True, kw_only=True)
class Run:
    """
    One run of a training. It continues in AWS independently of this object.

    Args:
        name: Name of the run, and of its execution.
        connection: Connection to its training.
        clients: boto3 clients.
    """

    name: str
    connection: Connection = field(repr=False)
    clients: AwsClients = field(repr=False)

    @classmethod
    def from_id(
        cls, name: str, *, client: TrainingClient | None = None, stack: str | None = None, output: str | None = None
    ) -> Run:
        """
        Return the run of this name, without asking AWS whether it exists; its `status` does.

        Args:
            name: Name of the run.
            client: Client of the training. Give this or *stack*.
            stack: Name or ARN of the stack with the training.
            output: Name of the stack output that describes the training, for a stack with several. Default: the only
                one.

        Raises:
            InvalidInput: If *name* is not valid, or not exactly one of *client* and *stack* is given.
            ConnectionNotFound: If *stack* does not exist, or has no training.
        """
        checked = checked_name(name)
        if client is None:
            if stack is None:
                raise InvalidInput("'client' or 'stack' must be given, got neither")
            session = new_session()
            connection = find_connection(session.client("cloudformation"), stack_name=stack, output=output)
            return cls(
                name=checked, connection=connection, clients=AwsClients(region=connection.region, session=session)
            )
        if stack is not None:
            raise InvalidInput(f"'stack' must be omitted when 'client' is given, got '{stack}'")
        return cls(name=checked, connection=client.connection, clients=client.clients)

    @property
    def execution_arn(self) -> str:
        """ARN of the execution."""
        return self.connection.execution_arn(self.name)

    @property
    def model_uri(self) -> str:
        """
        S3 address of the model; the object exists once the run has succeeded.

        Raises:
            RunNotFound: If the training has no such run.
        """
        return model_uri(self.connection, self.run_id)

    @cached_property
    def run_id(self) -> str:
        """
        Id of the run, which distinguishes it from other runs of this name; part of its keys in the ledger and in S3.

        It is read from AWS once.

        Raises:
            RunNotFound: If the training has no such run.
        """
        return find_id(self.name, connection=self.connection, clients=self.clients)

    def status(self) -> RunStatus:
        """
        Read the status from Step Functions and the ledger, and from Auto Scaling while nodes start.

        The cost of an ended run is that of its receipt, because the ledger's records end before the nodes do.

        Raises:
            RunNotFound: If the training has no such run.
        """
        status = read_status(self.name, connection=self.connection, clients=self.clients, now=time.time())
        final = self._final_spend() if status.ended else None
        return status if final is None else replace(status, spend=final)

    def wait(
        self,
        on_progress: Callable[[RunStatus], object] | None = None,
        *,
        poll_seconds: float = 5.0,
        patience_seconds: float = PATIENCE_SECONDS,
        on_trouble: Callable[[Exception], object] | None = None,
    ) -> RunStatus:
        """
        Wait until the run ends.

        Network errors are retried, because the run continues meanwhile.

        Args:
            on_progress: Called with the first status, and with each status that differs from the one before.
            poll_seconds: Seconds between two polls. Default: 5.
            patience_seconds: Seconds of failing calls after which their error is raised. Default: an hour.
            on_trouble: Called with each error that is retried.

        Raises:
            RunFailed: If the run ended without a model.
            RunNotFound: If the training has no such run.
        """
        seen: RunStatus | None = None
        while True:
            status = keep_trying(
                self.status, patience_seconds=patience_seconds, pause_seconds=poll_seconds, on_trouble=on_trouble
            )
            if status != seen and on_progress is not None:
                on_progress(status)
            seen = status
            if status.ended:
                break
            time.sleep(poll_seconds)
        if not status.succeeded:
            raise RunFailed(run=self.name, state=status.state, error=status.error, cause=status.cause)
        return status

    def logs(
        self,
        *,
        follow: bool = False,
        rank: int | None = None,
        node: str | None = None,
        agent: bool = False,
        all_ranks: bool = False,
    ) -> Iterator[LogLine]:
        """
        Read the lines that the run printed, in the order of their times.

        Args:
            follow: Keep reading new lines until the run has ended.
            rank: Read the lines of this rank only. Default: rank 0; with *node*, all ranks of that node; with *agent*,
                no rank.
            node: Read the lines of this node only. Default: all nodes.
            agent: Also read the lines of the agents.
            all_ranks: Read the lines of all ranks.

        Raises:
            InvalidInput: If *rank* is negative, or given together with *all_ranks*.
            LogsNotFound: If the training's log group does not exist.
            RunNotFound: If the training has no such run.
        """
        selection = Selection(rank=rank, node=node, agent=agent, all_ranks=all_ranks)
        logs = RunLogs(self.clients.logs, group=self.connection.log_group, run=self.name, selection=selection)
        return logs.follow(lambda: is_over(self._state())) if follow else self._lines(logs)

    def download_model(self, path: str | PathLike[str]) -> Path:
        """
        Download the run's model and unpack it into a folder, completely or not at all.

        Args:
            path: The folder, new or empty.

        Raises:
            InvalidInput: If *path* is anything but a new or an empty folder.
            ModelNotFound: If the run has no model, or none yet.
            HorovodClientError: If the model's archive is damaged, or would write outside of the folder.
            RunNotFound: If the training has no such run.
        """
        s3 = self.clients.s3
        target = checked_target(path)
        try:
            return download_model(
                s3, bucket=self.connection.model_bucket, key=contract.model_key(self.run_id), target=target
            )
        except s3.exceptions.NoSuchKey as error:
            status = self.status()
            if status.ended:
                how = ": ".join(part for part in (status.state, status.error) if part)
                sentence = f"run '{self.name}' has no model: it ended as {how}"
            else:
                sentence = f"run '{self.name}' has no model yet: its phase is {status.phase or 'not known yet'}"
            raise ModelNotFound(sentence) from error

    def cost(self) -> Spend | None:
        """
        Return the run's cost from its receipt; while it runs, or without a receipt, its cost so far.

        Returns None if no price is known.

        Raises:
            RunNotFound: If the training has no such run.
        """
        return self._final_spend() or self.status().spend

    def receipt(self) -> dict[str, Any]:
        """
        Read the run's receipt, which the state machine wrote, or the clean-up if the run was stopped.

        Raises:
            ReceiptNotFound: If there is none; it is written when the run ends.
            RunNotFound: If the training has no such run.
        """
        receipt = self._written_receipt()
        if receipt is None:
            raise ReceiptNotFound(f"run '{self.name}' has no receipt: {_why_none(self._state())}")
        return receipt

    def stop(self, cause: str = "stopped by a user") -> None:
        """
        Stop the run.

        Args:
            cause: Reason, shown in the run's status and receipt.

        Raises:
            RunEnded: If the run has ended already.
            RunNotFound: If the training has no such run.
        """
        state = self._state()
        if is_over(state):
            raise RunEnded(f"run '{self.name}' has ended: {state}")
        self.clients.stepfunctions.stop_execution(executionArn=self.execution_arn, error=STOPPED_ERROR, cause=cause)

    def _final_spend(self) -> Spend | None:
        try:
            receipt = self._written_receipt()
        # A user who may see runs may lack permission for the bucket; the status then has the cost from the ledger.
        except self.clients.s3.exceptions.ClientError:
            return None
        return None if receipt is None else spend_of_receipt(receipt.get("cost") or {})

    def _written_receipt(self) -> dict[str, Any] | None:
        s3 = self.clients.s3
        try:
            answer = s3.get_object(Bucket=self.connection.model_bucket, Key=contract.receipt_key(self.run_id))
        except s3.exceptions.NoSuchKey:
            return None
        receipt: dict[str, Any] = json.loads(answer["Body"].read())
        return receipt

    def _lines(self, logs: RunLogs) -> Iterator[LogLine]:
        yield from logs.new_lines()
        if not logs.found:
            self._state()  # raises RunNotFound if there is no such run

    def _state(self) -> str:
        return describe_execution(self.name, connection=self.connection, clients=self.clients)["status"]


def _why_none(state: str) -> str:
    """Explain why a run whose execution is in *state* has no receipt."""
    if not is_over(state):
        return "it is still running, and writes its receipt when it ends"
    if state == FAILED:  # the request was refused before the run was recorded, or the receipt could not be written
        return "it ended without one"
    return "it ended; the clean-up writes it once no node is left"
