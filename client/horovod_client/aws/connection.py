"""The connection to a training, which its stack publishes as an output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from horovod_client.errors import ConnectionNotFound
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import OutputTypeDef


@dataclass(frozen=True, kw_only=True)
class Fleet(contract.FleetSize):
    """
    A fleet of a training.

    Args:
        id: Name of the fleet in the ledger.
        max_gpus: Largest number of GPUs.
        gpu_step: GPUs of the smallest instance type; a run's GPUs must be a multiple of it.
        elastic: Whether nodes can come and go while a ring trains.
        engine: What provides its nodes: `ec2`, `ecs`, `sagemaker`, or the name of another engine.
        group: Name of the Auto Scaling group; empty where there is none.
        job_prefix: What begins the names of its SageMaker training jobs; empty where there are none.
        types: Instance types, each with its number of GPUs.
    """

    id: str
    engine: str = contract.ENGINE_EC2
    group: str = ""
    job_prefix: str = ""
    types: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """
    Everything that a client needs to know about one training.

    Args:
        state_machine: ARN of the run's state machine.
        data_bucket: Bucket for packaged scripts.
        model_bucket: Bucket for models and receipts.
        ledger_table: Name of the ledger's DynamoDB table.
        queue: Name of the training, and of the queue in which its runs wait for a fleet.
        log_group: CloudWatch log group of the nodes.
        fleets: The fleets; a run gets one that fits it.
        max_runtime_seconds: Longest training that a run may request.
        max_cost_usd: Highest cost of a run. Default: only the request's own limit.
        priced_types:
            Instance types whose On-Demand prices the construct has.
            Default: unknown; the stack accepts no prices in a request.
    """

    state_machine: str
    data_bucket: str
    model_bucket: str
    ledger_table: str
    queue: str
    log_group: str
    fleets: tuple[Fleet, ...]
    max_runtime_seconds: int
    max_cost_usd: float | None = None
    priced_types: frozenset[str] | None = None

    @classmethod
    def from_json(cls, text: str) -> Connection:
        """
        Parse the value of the stack output that `HorovodTraining` creates.

        Args:
            text: JSON object with the keys `CONNECTION_*` of `horovod_node.contract`.

        Raises:
            ConnectionNotFound: If *text* has another version, or is not such an object.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            version = values[contract.CONNECTION_VERSION]
            if version != contract.CONTRACT_VERSION:
                raise ConnectionNotFound(
                    f"the stack has version {version} and this client supports version {contract.CONTRACT_VERSION}: "
                    f"install the cdk-horovod that deployed the stack, or deploy the stack again"
                )
            ceiling = values.get(contract.CONNECTION_MAX_COST_USD)
            priced = values.get(contract.CONNECTION_PRICED_TYPES)
            return cls(
                state_machine=str(values[contract.CONNECTION_STATE_MACHINE]),
                data_bucket=str(values[contract.CONNECTION_DATA_BUCKET]),
                model_bucket=str(values[contract.CONNECTION_MODEL_BUCKET]),
                ledger_table=str(values[contract.CONNECTION_LEDGER_TABLE]),
                queue=str(values[contract.CONNECTION_QUEUE]),
                log_group=str(values[contract.CONNECTION_LOG_GROUP]),
                fleets=tuple(_read_fleet(fleet) for fleet in values[contract.CONNECTION_FLEETS]),
                max_runtime_seconds=int(values[contract.CONNECTION_MAX_RUNTIME_SECONDS]),
                max_cost_usd=None if ceiling is None else float(ceiling),
                priced_types=None if priced is None else frozenset(priced),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ConnectionNotFound(f"the stack's output is not a connection of cdk-horovod: {error!r}") from error

    @property
    def region(self) -> str:
        """Region of the state machine and of everything else."""
        return self.state_machine.split(":")[3]

    def types_to_price(self, gpus: int) -> tuple[str, ...]:
        """
        List the instance types, of fleets that fit the run, whose On-Demand prices the state machine cannot look up.

        Args:
            gpus: GPUs of the ring.
        """
        if self.priced_types is None or self.region in contract.PRICE_LIST_REGIONS:
            return ()
        types = dict.fromkeys(name for fleet in self.fleets if fleet.fits(gpus) for name in fleet.types)
        return tuple(name for name in types if name not in self.priced_types)

    def execution_arn(self, run: str) -> str:
        """Return the ARN of the execution of *run*, which consists of the state machine's ARN and the name."""
        return f"{self.state_machine.replace(':stateMachine:', ':execution:', 1)}:{run}"


def find_connection(cloudformation: CloudFormationClient, *, stack_name: str, output: str | None = None) -> Connection:
    """
    Read the connection from a deployed stack.

    Args:
        cloudformation: Client of the stack's account and region.
        stack_name: Name or ARN of the stack.
        output: Name of the stack output, for a stack with several trainings. Default: the only one.

    Raises:
        ConnectionNotFound: If there is no such stack or no training in it, or *output* must choose one.
    """
    outputs = _connection_outputs(cloudformation, stack_name)
    if not outputs:
        raise ConnectionNotFound(
            f"stack '{stack_name}' has no training: none of its outputs has the description "
            f"'{contract.CONNECTION_DESCRIPTION}'"
        )
    names = ", ".join(outputs)
    if output is None and len(outputs) > 1:
        raise ConnectionNotFound(
            f"stack '{stack_name}' has {len(outputs)} trainings: choose one with 'output', one of {names}"
        )
    chosen = next(iter(outputs)) if output is None else output
    if chosen not in outputs:
        raise ConnectionNotFound(f"'output' must be a training of stack '{stack_name}', one of {names}, got '{chosen}'")
    return Connection.from_json(outputs[chosen])


def _read_fleet(values: dict[str, Any]) -> Fleet:
    return Fleet(
        id=str(values[contract.CONNECTION_FLEET]),
        max_gpus=int(values[contract.CONNECTION_MAX_GPUS]),
        gpu_step=int(values[contract.CONNECTION_GPU_STEP]),
        elastic=bool(values.get(contract.CONNECTION_ELASTIC, True)),
        engine=str(values.get(contract.CONNECTION_ENGINE, contract.ENGINE_EC2)),
        group=str(values.get(contract.CONNECTION_GROUP, "")),
        job_prefix=str(values.get(contract.CONNECTION_JOB_PREFIX, "")),
        types={str(name): int(gpus) for name, gpus in values[contract.CONNECTION_TYPES].items()},
    )


def _connection_outputs(cloudformation: CloudFormationClient, stack_name: str) -> dict[str, str]:
    try:
        stack = cloudformation.describe_stacks(StackName=stack_name)["Stacks"][0]
    except cloudformation.exceptions.ClientError as error:
        # CloudFormation has no error code for a missing stack: it raises a ValidationError with this message.
        if "does not exist" not in error.response.get("Error", {}).get("Message", ""):
            raise
        region = cloudformation.meta.region_name
        raise ConnectionNotFound(
            f"there is no stack '{stack_name}' in {region}: check its name and AWS_REGION"
        ) from error
    found: list[OutputTypeDef] = [
        output for output in stack.get("Outputs", []) if output.get("Description") == contract.CONNECTION_DESCRIPTION
    ]
    return {output["OutputKey"]: output["OutputValue"] for output in sorted(found, key=lambda o: o["OutputKey"])}
