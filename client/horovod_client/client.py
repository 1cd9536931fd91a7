"""`TrainingClient`, which starts runs of a training."""

from __future__ import annotations

import re
import secrets
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from horovod_client.aws.clients import AwsClients, InjectedClients, new_session
from horovod_client.aws.connection import Connection, find_connection
from horovod_client.aws.error_codes import code_of
from horovod_client.errors import InvalidInput, PricesMissing, ScriptDoubtful
from horovod_client.prices.estimate import CostEstimate, estimate, fitting_fleets
from horovod_client.run import Run, checked_name
from horovod_client.status.runs import RunSummary, list_runs
from horovod_client.submit.request import build_request, check_checkpoint_exists, check_data_exists, write_request
from horovod_client.submit.source import SourcePackage, package_source
from horovod_node import contract

if TYPE_CHECKING:
    from typing import Unpack

    from boto3.session import Session
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_stepfunctions.type_defs import StartExecutionInputTypeDef

    from horovod_client.prices.lookup import PriceLookup


class TrainingClient:
    """
    Starts and lists the runs of one training.

    Args:
        connection: Connection to the training, from its stack's output.
        session: boto3 session for clients that are not in *injected*. Default: a new one from the environment.
        injected:
            boto3 clients to use instead of new ones: `stepfunctions`, `s3`, `dynamodb`, `logs`, `autoscaling`,
            `ec2`, `pricing`, `sts`, `servicequotas`, `sagemaker`.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        session: Session | None = None,
        **injected: Unpack[InjectedClients],
    ) -> None:
        self.connection = connection
        self.clients = AwsClients(region=connection.region, session=session, **injected)

    @classmethod
    def from_stack(
        cls,
        stack_name: str,
        *,
        output: str | None = None,
        session: Session | None = None,
        cloudformation: CloudFormationClient | None = None,
        **injected: Unpack[InjectedClients],
    ) -> TrainingClient:
        """
        Find the training in a deployed stack.

        Args:
            stack_name: Name or ARN of a stack with a `HorovodTraining`.
            output: Name of the stack output that describes the training, for a stack with several. Default: the only
                one.
            session: boto3 session with the stack's Region. Default: a new one from the environment.
            cloudformation: Client to use instead of a new one.
            injected: boto3 clients to use instead of new ones, as for the constructor.

        Raises:
            ConnectionNotFound: If there is no such stack or no training in it, or *output* must choose one.
        """
        if cloudformation is None:
            session = session or new_session()
            cloudformation = session.client("cloudformation")
        connection = find_connection(cloudformation, stack_name=stack_name, output=output)
        return cls(connection, session=session, **injected)

    def runs(self, *, limit: int = 20) -> tuple[RunSummary, ...]:
        """
        List the newest runs, the newest first.

        Args:
            limit: Largest number of runs. Default: 20.
        """
        return list_runs(self, limit=limit)

    def estimate(self, *, gpus: int, hours: float = 1.0) -> CostEstimate:
        """
        Estimate the cost of a run at current prices, on each fleet that fits it; nothing is started.

        Args:
            gpus: GPUs of the ring.
            hours: Hours that its nodes run. Default: 1.

        Raises:
            InvalidInput: If no fleet can hold the ring, or *hours* is not more than 0.
            PricesUnknown: If no price is known; the sentence says why.
        """
        types = (name for fleet in fitting_fleets(self.connection, gpus=gpus) for name in fleet.types)
        return estimate(self.connection, gpus=gpus, hours=hours, prices=self.price_lookup().prices_of(types))

    def price_lookup(self) -> PriceLookup:
        """Return a look-up of instance prices with this client's credentials and the user's price cache."""
        # Imported here because it loads botocore, which would slow down the import of this package.
        from horovod_client.prices.lookup import PriceLookup

        return PriceLookup(region=self.connection.region, clients=self.clients)

    @overload
    def fit(
        self,
        entry_point: str | PathLike[str],
        *,
        gpus: int,
        min_gpus: int | None = None,
        data: Mapping[str, str] | str | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        max_runtime: timedelta | None = None,
        max_cost_usd: float | None = None,
        max_restarts: int | None = None,
        resume_from: str | None = None,
        model_required: bool = True,
        owner: str | None = None,
        project: str | None = None,
        source_dir: str | PathLike[str] | None = None,
        name: str | None = None,
        dry_run: Literal[False] = False,
    ) -> Run: ...

    @overload
    def fit(
        self,
        entry_point: str | PathLike[str],
        *,
        gpus: int,
        min_gpus: int | None = None,
        data: Mapping[str, str] | str | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        max_runtime: timedelta | None = None,
        max_cost_usd: float | None = None,
        max_restarts: int | None = None,
        resume_from: str | None = None,
        model_required: bool = True,
        owner: str | None = None,
        project: str | None = None,
        source_dir: str | PathLike[str] | None = None,
        name: str | None = None,
        dry_run: Literal[True],
    ) -> StartExecutionInputTypeDef: ...

    def fit(
        self,
        entry_point: str | PathLike[str],
        *,
        gpus: int,
        min_gpus: int | None = None,
        data: Mapping[str, str] | str | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        max_runtime: timedelta | None = None,
        max_cost_usd: float | None = None,
        max_restarts: int | None = None,
        resume_from: str | None = None,
        model_required: bool = True,
        owner: str | None = None,
        project: str | None = None,
        source_dir: str | PathLike[str] | None = None,
        name: str | None = None,
        dry_run: bool = False,
    ) -> Run | StartExecutionInputTypeDef:
        """
        Start a run and return at once; `Run.wait` waits for its end.

        Everything is checked before the code is uploaded and the run is started. In a Region in which the state machine
        cannot look up On-Demand prices, this looks them up and sends them with the request, because the ceiling and
        the receipt need them. If that fails, the warning `PricesMissing` says why. The warning `ScriptDoubtful` reports
        a script that does not name Horovod or SM_MODEL_DIR.

        Args:
            entry_point: The training script; with *source_dir*, its path inside that folder.
            gpus: GPUs of the ring, one rank on each.
            min_gpus:
                Smallest number of GPUs that the ring may begin with or shrink to; it grows when more nodes join. The
                script must be elastic. Rounded up to whole nodes.
                Default: *gpus*, a static ring.
            data:
                `s3://bucket/folder` or `s3://bucket/object` for each channel, which the script finds as
                SM_CHANNEL_<NAME>; a single address is the channel `training`.
                Default: no data.
            hyperparameters:
                Passed to the script as `--name value` and as SM_HPS; any JSON values.
                Default: none.
            max_runtime:
                Longest training, in whole seconds, after which the run is stopped.
                Default: the limit of the training.
            max_cost_usd:
                Cost of the run's instances, in US dollars, at which the run is stopped; its checkpoints are kept.
                Default: the limit of the training, if it has one.
            max_restarts:
                How often the run restarts from its newest checkpoint when it loses its leader, or a node that its ring
                needs; 0 to 20.
                Default: that of the training.
            resume_from:
                Name of a run of the same training; the new run begins with the newest checkpoint of that run.
                Default: the new run begins without a checkpoint.
            model_required:
                Whether the run fails when its script leaves nothing in SM_MODEL_DIR. A benchmark needs no model.
                Default: it fails.
            owner:
                Person or team that the run is for, a tag of its instances.
                Default: none.
            project:
                Project that the run is for, a tag of its instances.
                Default: none.
            source_dir:
                Folder to package with the script, without files that its `.gitignore` ignores.
                Default: only the script is packaged.
            name:
                Name of the run: 1 to 80 letters, digits, `-` and `_`. A name that was used in the last 90 days is
                refused, except for the same request while its run is running, which is not started twice.
                Default: the script's name, the time and a few random letters.
            dry_run: Return the exact arguments of Step Functions' StartExecution, and upload and start nothing.

        Raises:
            InvalidInput: If the script cannot be read or is not Python, the request is invalid for this training, or
                the data or the checkpoint of *resume_from* is missing.
        """
        package = package_source(entry_point, source_dir=source_dir)
        request = build_request(
            source=f"s3://{self.connection.data_bucket}/{contract.source_key(package.digest)}",
            entry_point=package.entry_point,
            gpus=gpus,
            min_gpus=min_gpus,
            data=data,
            hyperparameters=hyperparameters,
            max_runtime=max_runtime,
            max_cost_usd=max_cost_usd,
            max_restarts=max_restarts,
            resume_from=resume_from,
            model_required=model_required,
            owner=owner,
            project=project,
        )
        execution: StartExecutionInputTypeDef = {
            "stateMachineArn": self.connection.state_machine,
            "name": checked_name(name) if name is not None else _new_name(package.entry_point),
            "input": write_request(request, connection=self.connection),
        }
        check_data_exists(request.get(contract.DATA, {}), s3=self.clients.s3)
        if resume_from is not None:
            check_checkpoint_exists(
                resume_from,
                training=self.connection.queue,
                bucket=self.connection.model_bucket,
                s3=self.clients.s3,
            )
        prices = self._prices_to_submit(gpus)
        if prices:
            request[contract.ON_DEMAND_PRICES] = prices
            execution["input"] = write_request(request, connection=self.connection)
        for doubt in package.doubts(gpus=gpus, model_required=model_required):
            warnings.warn(doubt, ScriptDoubtful, stacklevel=2)
        if dry_run:
            return execution
        self._upload_once(package)
        return self._start(execution)

    def _prices_to_submit(self, gpus: int) -> dict[str, float]:
        """
        Look up On-Demand prices by instance type, where the state machine cannot.

        The date is left out, so that a request that is repeated the next day is identical and starts only one run.
        """
        types = self.connection.types_to_price(gpus)
        if not types:
            return {}
        prices = self.price_lookup().on_demand_prices_of(types)
        if prices.remarks:
            warnings.warn(
                f"{'; '.join(prices.remarks)}; the run starts anyway, but if a node has no known price, the ceiling is "
                "not enforced and the receipt has no total",
                PricesMissing,
                stacklevel=3,
            )
        return {price.instance_type: price.usd for price in prices.found}

    def _upload_once(self, package: SourcePackage) -> None:
        s3, bucket, key = self.clients.s3, self.connection.data_bucket, contract.source_key(package.digest)
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except s3.exceptions.ClientError as error:
            if code_of(error) != "404":
                raise
            try:
                s3.put_object(
                    Bucket=bucket, Key=key, Body=package.archive, ContentType="application/gzip", IfNoneMatch="*"
                )
            except s3.exceptions.ClientError as refusal:
                # Another client, or an earlier request whose answer was lost, has stored the same content meanwhile.
                if code_of(refusal) != "PreconditionFailed":
                    raise

    def _start(self, execution: StartExecutionInputTypeDef) -> Run:
        stepfunctions = self.clients.stepfunctions
        run = Run(name=execution["name"], connection=self.connection, clients=self.clients)
        try:
            stepfunctions.start_execution(**execution)
        except stepfunctions.exceptions.ExecutionAlreadyExists as error:
            raise InvalidInput(
                f"'name' must be new, but there is already a run '{run.name}': choose another name, or omit it"
            ) from error
        return run


def _new_name(entry_point: str) -> str:
    """Generate a unique name that a person recognises."""
    script = re.sub(r"[^A-Za-z0-9_-]", "-", Path(entry_point).stem)[:40]
    return f"{script}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
