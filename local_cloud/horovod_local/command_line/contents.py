"""The contents of a local cloud: its trainings, instances and runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from horovod_client.aws.connection import Connection
from horovod_local.background import BackgroundCloud
from horovod_local.errors import LocalCloudError
from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class Training:
    """
    A deployed training.

    Args:
        stack: Name of its stack.
        output: Key of the stack output that holds its connection.
        state_machine: ARN of the runs' state machine.
        data_bucket: Name of the data bucket.
        max_gpus: GPUs of its largest fleet.
    """

    stack: str
    output: str
    state_machine: str
    data_bucket: str
    max_gpus: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """
    What a local cloud holds.

    Args:
        trainings: Its trainings, sorted by stack and output.
        instances: Ids of the running instances.
        runs: Names of the runs that have not ended.
    """

    trainings: tuple[Training, ...] = field(default=())
    instances: tuple[str, ...] = field(default=())
    runs: tuple[str, ...] = field(default=())

    def training(self, *, stack: str | None, output: str | None) -> Training:
        """
        Choose a training.

        Args:
            stack: Name of its stack. Default: any.
            output: Key of its stack output. Default: any.

        Raises:
            LocalCloudError: If no training matches, or several do.
        """
        fitting = [
            training
            for training in self.trainings
            if stack in (None, training.stack) and output in (None, training.output)
        ]
        if len(fitting) == 1:
            return fitting[0]
        names = ", ".join(f"--stack {training.stack} --output {training.output}" for training in self.trainings)
        if not names:
            raise LocalCloudError("nothing is deployed in the local cloud: run cdk-horovod local up --assembly cdk.out")
        raise LocalCloudError(
            f"'--stack' and '--output' must choose one training of the local cloud, which has: {names}"
        )


def read_contents(cloud: BackgroundCloud) -> Contents:
    """
    Read the contents of *cloud*.

    Args:
        cloud: A running cloud.
    """
    trainings = tuple(_trainings(cloud))
    stepfunctions = cloud.client("stepfunctions")
    runs = [
        execution["name"]
        for machine in sorted({training.state_machine for training in trainings})
        for execution in stepfunctions.list_executions(stateMachineArn=machine, statusFilter="RUNNING")["executions"]
    ]
    instances = [str(instance["instance_id"]) for instance in cloud.call_control_api("GET", "instances")]
    return Contents(trainings=trainings, instances=tuple(sorted(instances)), runs=tuple(runs))


def _trainings(cloud: BackgroundCloud) -> list[Training]:
    found = []
    for stack in cloud.client("cloudformation").describe_stacks()["Stacks"]:
        for output in stack.get("Outputs", []):
            if output.get("Description") == contract.CONNECTION_DESCRIPTION:
                connection = Connection.from_json(output["OutputValue"])
                found.append(
                    Training(
                        stack=stack["StackName"],
                        output=output["OutputKey"],
                        state_machine=connection.state_machine,
                        data_bucket=connection.data_bucket,
                        max_gpus=max(fleet.max_gpus for fleet in connection.fleets),
                    )
                )
    return sorted(found, key=lambda training: (training.stack, training.output))
