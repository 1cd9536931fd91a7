"""
The deployment in which faults are tried: a training over two fleets, so that one run meets the fault and another must
not notice.

Its timeouts are short, so that a test can wait for a bound; they keep the proportions of the defaults.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Duration, Stack

from cdk_horovod import (
    CapacityAttempt,
    CapacityPlan,
    Engine,
    GpuFleet,
    HorovodTraining,
    RunTimeouts,
    TrainingImage,
    TrainingNetwork,
    TrainingStorage,
)
from horovod_client import ReceiptNotFound, Run
from horovod_local import Faults, LocalCloud, LocalInstance
from horovod_node import contract
from support.local_cloud.deployment import RULES, Deployment
from support.waiting import eventually

HEARTBEAT, LAUNCH, START, SAVE, LEASE, STALL, POLL = 12, 40, 120, 120, 16, 12, 1
"""Seconds."""
HOLD = LAUNCH + LEASE
"""How long a lease holds that a state machine took."""
REAPER_MINUTES, SCHEDULE_SPEED = 1, 15
REAPER = REAPER_MINUTES * 60 / SCHEDULE_SPEED
"""Seconds between two looks of the reaper in the lab's clock."""

ONE, TWO = 0, 1
"""The fleets, in the order in which a run tries them, by their GPUs."""


def synthesise_lab(
    out: Path, *, extend: Callable[[HorovodTraining], None] = lambda _training: None, **options: Any
) -> None:
    """Write the cloud assembly of a training over two fleets, of one GPU and of two; with *options* of its own."""
    app = App(outdir=str(out))
    stack = Stack(app, "Training")
    network = TrainingNetwork(stack, "Network")
    fleets = [
        GpuFleet(
            stack,
            f"Fleet{name}",
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            instance_types=["g5.xlarge"],
            max_gpus=gpus,
            on_demand_base_gpus=1,
            # One attempt without a limit of its own: what the matrix tells of a start is what start_timeout bounds.
            capacity_plan=CapacityPlan.attempts([CapacityAttempt(market="spot")]),
        )
        for name, gpus in (("One", 1), ("Two", 2))
    ]
    settings: dict[str, Any] = {
        # What a fault ends is to stay ended; restarts have tests of their own.
        "max_restarts": 0,
        **options,
    }
    training = HorovodTraining(
        stack,
        "Training",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
        engine=Engine.ec2(*fleets),
        on_demand_prices={"g5.xlarge": 1.0},
        timeouts=RunTimeouts(
            queue_timeout=Duration.minutes(6),
            launch_timeout=Duration.seconds(LAUNCH),
            start_timeout=Duration.seconds(START),
            save_timeout=Duration.seconds(SAVE),
            heartbeat=Duration.seconds(HEARTBEAT),
            first_step_timeout=Duration.seconds(60),
            stall_timeout=Duration.seconds(STALL),
            lease_timeout=Duration.seconds(LEASE),
            poll_interval=Duration.seconds(POLL),
        ),
        reaper_interval=Duration.minutes(REAPER_MINUTES),
        **settings,
    )
    extend(training)
    app.synth()


@contextmanager
def deployed_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Synthesise the lab's app and deploy it into a cloud of its own."""
    out = tmp_path_factory.mktemp("lab") / "cdk.out"
    synthesise_lab(out)
    with LocalCloud(home=tmp_path_factory.mktemp("lab-cloud"), schedule_speed=SCHEDULE_SPEED) as cloud:
        cloud.deploy(out, tell=lambda _line: None)
        yield Lab(app=Deployment(cloud=cloud))


@dataclass(kw_only=True)
class Lab:
    """
    The deployed training, and the faults in force.

    Args:
        app: The deployment.
    """

    app: Deployment
    faults: Faults = field(default_factory=Faults)
    blocker: Run | None = None
    """A run that holds a fleet which another one waits for."""

    @property
    def cloud(self) -> LocalCloud:
        """The cloud that everything runs in."""
        return self.app.cloud

    def put(self, **faults: Any) -> None:
        """Put more faults in force; what is held by a delay goes on."""
        self.faults = replace(self.faults, **faults)
        self.cloud.set_faults(self.faults)

    def heal(self) -> None:
        """End all faults, and switch every layer on."""
        self.faults = Faults()
        self.cloud.set_faults(self.faults)
        for layer in RULES:
            self.switch(layer, on=True)

    @contextmanager
    def executions_limited_to(self, seconds: int) -> Iterator[None]:
        """Give runs that start now an execution that times out so soon: the deployed machine with another limit."""
        machine = self.app.training.connection.state_machine
        stepfunctions = self.cloud.client("stepfunctions")
        deployed = stepfunctions.describe_state_machine(stateMachineArn=machine)["definition"]
        limited = json.dumps({**json.loads(deployed), "TimeoutSeconds": seconds})
        stepfunctions.update_state_machine(stateMachineArn=machine, definition=limited)
        try:
            yield
        finally:
            stepfunctions.update_state_machine(stateMachineArn=machine, definition=deployed)

    def switch(self, layer: str, *, on: bool) -> None:
        """Enable or disable the EventBridge rule of a layer."""
        self.app.switch(layer, on=on)

    def start(self, *, gpus: int = 2, **hyperparameters: Any) -> Run:
        """Start a run that makes steps for as long as `seconds` says."""
        return self.app.start("steps_only.py", gpus=gpus, hyperparameters=hyperparameters)

    def nodes_of(self, run: Run) -> list[LocalInstance]:
        """List the instances that joined *run* and are still there."""
        joined = {item[contract.NODE]["S"] for item in self.items(run, contract.NODE_PREFIX)}
        return [instance for instance in self.cloud.instances() if instance.instance_id in joined]

    def steps_of(self, run: Run) -> int:
        """Tell how many steps the slowest node of *run* has told of."""
        return min((int(item[contract.STEP]["N"]) for item in self.items(run, contract.NODE_PREFIX)), default=0)

    def leader_of(self, run: Run) -> LocalInstance:
        """Find the instance that leads *run*."""
        leader = self.app.leader_of(run)
        return next(instance for instance in self.cloud.instances() if instance.instance_id == leader)

    def items(self, run: Run, prefix: str) -> Sequence[dict[str, Any]]:
        """List the items of *run* whose sort key begins with *prefix*."""
        partition = contract.nodes_partition(self.app.fleet_of(run), run.run_id)
        found: list[dict[str, Any]] = self.cloud.client("dynamodb").query(
            TableName=self.app.training.connection.ledger_table,
            KeyConditionExpression="#pk = :pk AND begins_with(#sk, :sk)",
            ExpressionAttributeNames={"#pk": contract.PARTITION_KEY, "#sk": contract.SORT_KEY},
            ExpressionAttributeValues={
                ":pk": {"S": partition},
                ":sk": {"S": prefix},
            },
            ConsistentRead=True,
        )["Items"]
        return found

    def state_of(self, run: Run) -> str:
        """Name the state that the execution is in, or was in last."""
        states = self.app.states_of(run)
        return states[-1] if states else ""

    def group_of(self, fleet: int) -> dict[str, Any]:
        """Describe the Auto Scaling group of a fleet."""
        groups = self.cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        part = {ONE: "FleetOne", TWO: "FleetTwo"}[fleet]
        return next(group for group in groups if part in group["AutoScalingGroupName"])

    def instances_in(self, fleet: int) -> list[str]:
        """List the instances of a fleet, in whatever state of their lives."""
        return sorted(instance["InstanceId"] for instance in self.group_of(fleet)["Instances"])

    def is_at_rest(self, fleet: int) -> bool:
        """Whether nothing of the fleet runs or is asked for."""
        group = self.group_of(fleet)
        processes = [each for each in self.cloud.instances() if each.group == group["AutoScalingGroupName"]]
        return not group["Instances"] and group["DesiredCapacity"] == 0 and not processes

    def holder(self, fleet: int) -> str:
        """Name who holds the fleet; '' when its lease is missing or has expired."""
        lease = self.app.lease(fleet)
        if lease is None or int(lease[contract.EXPIRES_AT]["N"]) <= time.time():
            return ""
        return str(lease[contract.RUN]["S"])


def until(seconds: float, look: Any) -> bool:
    """Look again and again for *seconds*; answer whether it became true."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return bool(seen)


def receipt_so_far(run: Run) -> dict[str, Any]:
    """Read the receipt of a run; {} as long as there is none."""
    try:
        return run.receipt()
    except ReceiptNotFound:
        return {}


def receipt_of(run: Run) -> dict[str, Any]:
    """Read the receipt of a run that has ended; the clean-up may still be writing it."""
    receipt = eventually(lambda: receipt_so_far(run))
    assert receipt, f"{run.name} has no receipt"
    return receipt
