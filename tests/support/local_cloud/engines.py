"""The engines under test: each with a deployment of its own, and how its provider takes nodes away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_cdk import App, Duration, Stack

from cdk_horovod import (
    CapacityAttempt,
    CapacityPlan,
    Engine,
    GpuFleet,
    HorovodTraining,
    IEngine,
    RunTimeouts,
    TrainingImage,
    TrainingNetwork,
    TrainingStorage,
)
from horovod_client import Run
from horovod_local import LocalCloud
from horovod_node import contract
from horovod_node.ledger.ledger import NodeItem
from support.local_cloud.deployment import Deployment
from support.waiting import eventually

GPUS = 2
"""Of every run and every fleet, each on a node of its own."""
HEARTBEAT, LEASE = 15, 30
NOTICE_SECONDS = 20
"""Of an interruption; two minutes on EC2."""
REAPER_MINUTES, SCHEDULE_SPEED = 1, 15
PATIENCE = 20
"""Seconds of an attempt after which `FIRST_AVAILABLE` goes on to its next engine."""


@dataclass(frozen=True, kw_only=True)
class EngineUnderTest:
    """
    An engine of the conformance suite.

    Args:
        name: Its name.
        build: Adds what the engine needs to a stack, and returns it.
        price: Type and On-Demand price in USD an hour that the training is given.
        lose: Ends the machine or container of a node without a word.
        interrupt: Interrupts Spot nodes as the provider does: with a notice, or all at once without a word.
        left: Lists what its provider still has or bills.
    """

    name: str
    build: Callable[[Stack], IEngine]
    price: tuple[str, float]
    lose: Callable[[LocalCloud, str], None]
    interrupt: Callable[[LocalCloud], None]
    left: Callable[[Deployment], list[str]]


@dataclass(frozen=True, kw_only=True)
class EngineDeployment(Deployment):
    """A training on one engine."""

    engine: EngineUnderTest

    def training_nodes(self, run: Run, *, attempt: int = 1, step: int = 1) -> tuple[str, list[str]]:
        """Wait until all nodes of *attempt* have done *step*; name the leader and the others."""

        def there(items: dict[str, NodeItem]) -> bool:
            at_step = [item for item in items.values() if item.state == contract.NODE_TRAINING and item.step >= step]
            return len(at_step) == GPUS or run.status().state != "RUNNING"

        items = eventually(lambda: self.nodes(run, attempt=attempt), there)
        assert there(items), items
        assert run.status().state == "RUNNING", run.status()
        leader = self.ledger.leader(self.lease_of(run, attempt))
        assert leader is not None
        return leader, sorted(name for name in items if name != leader)

    def assert_nothing_is_left(self) -> None:
        """See that the provider has nothing, that no process is left, and that nobody holds the fleet."""
        assert eventually(lambda: self.engine.left(self), lambda left: not left) == []
        assert eventually(self.lease, lambda lease: lease is None) is None
        assert self.instances_left() == []


def synthesise_engine(
    out: Path, engine: EngineUnderTest, *, launch: int = 100, start: int = 240, tag: str = "1", **options: Any
) -> None:
    """
    Write the cloud assembly of a training on *engine*.

    Args:
        out: The assembly.
        engine: The engine.
        launch: Launch timeout in seconds.
        start: Start timeout in seconds.
        tag: Tag of the image.
        options: Further arguments of the training.
    """
    app = App(outdir=str(out))
    stack = Stack(app, "Training")
    kind, usd = engine.price
    HorovodTraining(
        stack,
        "Training",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri(f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:{tag}"),
        engine=engine.build(stack),
        on_demand_prices={kind: usd},
        timeouts=RunTimeouts(
            queue_timeout=Duration.minutes(10),
            launch_timeout=Duration.seconds(launch),
            start_timeout=Duration.seconds(start),
            save_timeout=Duration.seconds(120),
            heartbeat=Duration.seconds(HEARTBEAT),
            first_step_timeout=Duration.seconds(120),
            stall_timeout=Duration.seconds(60),
            lease_timeout=Duration.seconds(LEASE),
            poll_interval=Duration.seconds(1),
        ),
        reaper_interval=Duration.minutes(REAPER_MINUTES),
        **options,
    )
    app.synth()


@contextmanager
def deployed_engine(folder: Path, engine: EngineUnderTest, **options: Any) -> Iterator[EngineDeployment]:
    """Deploy a training on *engine* into a cloud of its own, for as long as the block lasts."""
    out = folder / "cdk.out"
    synthesise_engine(out, engine, **options)
    with LocalCloud(home=folder / "cloud", schedule_speed=SCHEDULE_SPEED) as cloud:
        cloud.deploy(out, tell=lambda _line: None)
        yield EngineDeployment(cloud=cloud, engine=engine)


def _fleet(stack: Stack, *, ecs: bool = False, seconds: int | None = None) -> GpuFleet:
    network = TrainingNetwork(stack, "Network", ecs=ecs)
    return GpuFleet(
        stack,
        "Fleet",
        vpc=network.vpc,
        vpc_subnets=network.subnets,
        boundary=network.boundary,
        instance_types=["g5.xlarge"],
        max_gpus=GPUS,
        on_demand_base_gpus=1,
        capacity_plan=CapacityPlan.attempts(
            [CapacityAttempt(market=contract.SPOT, time_limit=None if seconds is None else Duration.seconds(seconds))]
        ),
    )


def _sagemaker(_stack: Stack) -> IEngine:
    return Engine.sagemaker(
        instance_types=["ml.g5.xlarge"],
        max_gpus=GPUS,
        capacity_plan=CapacityPlan.attempts([CapacityAttempt(market=contract.SPOT)]),
    )


def _interrupt_instances(cloud: LocalCloud) -> None:
    for instance in cloud.instances():
        if instance.market == contract.SPOT:
            cloud.interrupt(instance.instance_id, notice_seconds=NOTICE_SECONDS)


def _interrupt_job(cloud: LocalCloud) -> None:
    cloud.interrupt_training_job(cloud.training_hosts()[0].job)


def _lose_host(cloud: LocalCloud, node: str) -> None:
    """Lose the host of a node, whose id is the host's name and a random part."""
    name = node.rpartition("-")[0]
    (host,) = (host for host in cloud.training_hosts() if host.host == name)
    cloud.lose_training_host(host.job, host.host)


def _jobs(app: Deployment) -> list[str]:
    sagemaker = app.cloud.client("sagemaker")
    return [
        job["TrainingJobName"]
        for status in ("InProgress", "Stopping")
        for job in sagemaker.list_training_jobs(StatusEquals=status)["TrainingJobSummaries"]
    ]


EC2 = EngineUnderTest(
    name="ec2",
    build=lambda stack: Engine.ec2(_fleet(stack)),
    price=("g5.xlarge", 1.0),
    lose=LocalCloud.lose,
    interrupt=_interrupt_instances,
    left=Deployment.instances_left,
)
ECS = EngineUnderTest(
    name="ecs",
    build=lambda stack: Engine.ecs(_fleet(stack, ecs=True)),
    price=("g5.xlarge", 1.0),
    lose=LocalCloud.lose,
    interrupt=_interrupt_instances,
    left=Deployment.instances_left,
)
SAGEMAKER = EngineUnderTest(
    name="sagemaker",
    build=_sagemaker,
    price=("ml.g5.xlarge", 1.0),
    lose=_lose_host,
    interrupt=_interrupt_job,
    left=_jobs,
)
ENGINES = (EC2, ECS, SAGEMAKER)
FIRST_AVAILABLE = EngineUnderTest(
    name="first-available",
    build=lambda stack: Engine.first_available(Engine.ec2(_fleet(stack, seconds=PATIENCE)), _sagemaker(stack)),
    price=("ml.g5.xlarge", 1.0),
    lose=LocalCloud.lose,
    interrupt=_interrupt_instances,
    left=lambda app: app.instances_left() + _jobs(app),
)
"""EC2, whose one attempt is short, then SageMaker."""
