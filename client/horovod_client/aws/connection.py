"""How a client finds a training: one output of the stack that holds it."""

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
    A fleet that runs may get.

    Args:
        id: Name of the fleet in the ledger.
        max_gpus: GPUs that the fleet can hold.
        gpu_step: GPUs of its smallest instance; a run's GPUs must be a multiple of it.
        group: Name of its Auto Scaling group.
        types: Its instance types, each with its GPUs.
    """

    id: str
    group: str = ""
    types: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """
    All that a client needs to know of one training.

    Args:
        state_machine: ARN of the run's state machine.
        data_bucket: Bucket that packaged scripts go to.
        model_bucket: Bucket of models and receipts.
        ledger_table: Name of the ledger's DynamoDB table.
        queue: Name of the training, and of the queue in which its runs wait for a fleet.
        log_group: CloudWatch log group of the nodes.
        fleets: The fleets; a run gets one that it fits.
        max_runtime_seconds: Longest training that a run may ask for.
        max_cost_usd: Most that a run may cost. Default: no limit but the one that the run asks for.
        priced_types:
            Instance types whose On-Demand prices the stack was given.
            Default: not known; the stack takes no prices with a request.
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
        Read the value of a stack output that `HorovodTraining` made.

        Args:
            text: JSON object with the keys `CONNECTION_*` of `horovod_node.contract`.

        Raises:
            ConnectionNotFound: If *text* is of another version, or not such an object.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            version = values[contract.CONNECTION_VERSION]
            if version != contract.CONTRACT_VERSION:
                raise ConnectionNotFound(
                    f"the stack speaks version {version} and this client version {contract.CONTRACT_VERSION}: "
                    f"install the cdk-horovod that deployed the stack, or deploy it again"
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
        """Region of the state machine, which is the region of everything else."""
        return self.state_machine.split(":")[3]

    def types_to_price(self, gpus: int) -> tuple[str, ...]:
        """
        List the instance types whose On-Demand prices the state machine cannot find out, of fleets that the run fits.

        Args:
            gpus: GPUs of the ring.
        """
        if self.priced_types is None or self.region in contract.PRICE_LIST_REGIONS:
            return ()
        types = dict.fromkeys(name for fleet in self.fleets if fleet.fits(gpus) for name in fleet.types)
        return tuple(name for name in types if name not in self.priced_types)

    def execution_arn(self, run: str) -> str:
        """Name the execution of *run*: Step Functions builds its ARN from the state machine's and the name."""
        return f"{self.state_machine.replace(':stateMachine:', ':execution:', 1)}:{run}"


def find_connection(cloudformation: CloudFormationClient, *, stack_name: str, output: str | None = None) -> Connection:
    """
    Read the connection out of a deployed stack.

    Args:
        cloudformation: Client of the stack's account and region.
        stack_name: Name or ARN of the stack.
        output: Name of the stack output, for a stack with several trainings. Default: the only one.

    Raises:
        ConnectionNotFound: If there is no such stack, no training in it, or a choice to make.
    """
    outputs = _connection_outputs(cloudformation, stack_name)
    if not outputs:
        raise ConnectionNotFound(
            f"stack '{stack_name}' has no training: no output of it is described as '{contract.CONNECTION_DESCRIPTION}'"
        )
    names = ", ".join(outputs)
    if output is None and len(outputs) > 1:
        raise ConnectionNotFound(
            f"stack '{stack_name}' has {len(outputs)} trainings: choose one by 'output', which may be {names}"
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
        group=str(values[contract.CONNECTION_GROUP]),
        types={str(name): int(gpus) for name, gpus in values[contract.CONNECTION_TYPES].items()},
    )


def _connection_outputs(cloudformation: CloudFormationClient, stack_name: str) -> dict[str, str]:
    try:
        stack = cloudformation.describe_stacks(StackName=stack_name)["Stacks"][0]
    except cloudformation.exceptions.ClientError as error:
        # CloudFormation has no code of its own for a missing stack: it is a ValidationError that says so.
        if "does not exist" not in error.response.get("Error", {}).get("Message", ""):
            raise
        region = cloudformation.meta.region_name
        raise ConnectionNotFound(f"there is no stack '{stack_name}' in {region}: check name and AWS_REGION") from error
    found: list[OutputTypeDef] = [
        output for output in stack.get("Outputs", []) if output.get("Description") == contract.CONNECTION_DESCRIPTION
    ]
    return {output["OutputKey"]: output["OutputValue"] for output in sorted(found, key=lambda o: o["OutputKey"])}
