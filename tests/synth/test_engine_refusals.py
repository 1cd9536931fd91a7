"""What an engine cannot serve is refused at synthesis, in one sentence that names what would work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aws_cdk import Duration, Stack
from aws_cdk import aws_ec2 as ec2

from cdk_horovod import (
    CapacityAttempt,
    CapacityPlan,
    CapacityReservation,
    Engine,
    GpuFleet,
    HorovodTraining,
    IEngine,
    NetworkMode,
    RunTimeouts,
    TrainingNetwork,
    TrainingStorage,
)
from support.ecs_stacks import IMAGE

pytestmark = pytest.mark.synth

P3 = {"instance_types": ["p3.16xlarge"]}
P4D = {"instance_types": ["p4d.24xlarge"]}
MIXED = {"instance_types": ["g5.xlarge", "p3.8xlarge"], "allow_heterogeneous_gpus": True}
BLOCK = CapacityReservation.block("cr-0123456789abcdef0")


def attempts(*attempts: CapacityAttempt) -> CapacityPlan:
    """Make a plan of these attempts."""
    return CapacityPlan.attempts(list(attempts))


def fleets(*each: dict[str, Any], mode: NetworkMode = NetworkMode.ISOLATED, ecs: bool = True) -> list[GpuFleet]:
    """Make fleets in one zone of a new network."""
    stack = Stack()
    network = TrainingNetwork(stack, "Network", mode=mode, ecs=ecs and mode is NetworkMode.ISOLATED)
    one_zone = ec2.SubnetSelection(
        subnets=network.vpc.select_subnets(subnet_type=network.subnets.subnet_type).subnets[:1]
    )
    return [
        GpuFleet(
            stack,
            f"Fleet{number}",
            vpc=network.vpc,
            vpc_subnets=one_zone,
            boundary=network.boundary,
            **{"instance_types": ["g5.xlarge"], "max_gpus": 16, **options},
        )
        for number, options in enumerate(each, start=1)
    ]


def train(engine: IEngine, *, id: str = "Training", scope: Stack | None = None, **options: Any) -> None:
    """Give the engine to a training."""
    stack = scope or Stack()
    storage = TrainingStorage(stack, f"{id}Storage")
    HorovodTraining(stack, id, storage=storage, image=IMAGE, engine=engine, **options)


def ec2_on(*each: dict[str, Any]) -> Callable[[], Any]:
    """Use the EC2 engine on such fleets."""

    def use() -> None:
        made = fleets(*each)
        train(Engine.ec2(*made), scope=Stack.of(made[0]))

    return use


def ecs_on(fleet: dict[str, Any] | None = None, *, endpoints: bool = True, **options: Any) -> Callable[[], Any]:
    """Use the ECS engine on such a fleet."""
    return lambda: Engine.ecs(*fleets(fleet or {}, ecs=endpoints), **options)


def sagemaker(*, timeouts: RunTimeouts | None = None, **options: Any) -> Callable[[], Any]:
    """Use the SageMaker engine with such options."""
    arguments = {"instance_types": ["ml.g5.xlarge", "ml.g5.12xlarge"], "max_gpus": 16, **options}
    return lambda: train(Engine.sagemaker(**arguments), timeouts=timeouts)


def serve_twice(engine: IEngine, scope: Stack) -> None:
    """Give the same engine to two trainings."""
    for id in ("One", "Two"):
        train(engine, id=id, scope=scope)


def fleet_twice() -> None:
    """Give the same fleet to two trainings."""
    (fleet,) = fleets({})
    stack = Stack.of(fleet)
    train(Engine.ec2(fleet), id="One", scope=stack)
    train(Engine.ecs(fleet), id="Two", scope=stack)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "EC2: no fleet": (Engine.ec2, "'fleets' must be at least one, got none"),
    "EC2: P3 on the newest image": (
        ec2_on(P3),
        "'machine_image' must be given for p3.16xlarge, because current Deep Learning AMIs have no driver for its GPUs",
    ),
    "EC2: Capacity Blocks beside other fleets": (
        ec2_on({**P4D, "spot": False}, {**P4D, "spot": False, "capacity_reservation": BLOCK}),
        "'fleets' must all be Capacity Blocks, or none of them, got some of each",
    ),
    "a fleet of two trainings": (
        fleet_twice,
        "'fleet' must serve one training, got Default/Fleet1, which already serves Default/One",
    ),
    "ECS: no fleet": (Engine.ecs, "'fleets' must be at least one, got none"),
    "ECS: an isolated network without its endpoints": (
        ecs_on(endpoints=False),
        "'fleet' must be in a network with the endpoints of Amazon ECS, got Default/Fleet1 in one without; set 'ecs' "
        "of its TrainingNetwork",
    ),
    "ECS: all of a node for others": (ecs_on(room=0.9), "'room' must be from 0 to 0.5, got 0.9"),
    "ECS: less than nothing for others": (ecs_on(room=-0.1), "'room' must be from 0 to 0.5, got -0.1"),
    "ECS: EFA on the ECS GPU AMI": (
        ecs_on({**P4D, "efa": True}),
        "'fleet' must have no 'efa', or a 'machine_image' with both the ECS agent and EFA, because the ECS GPU AMI has "
        "no EFA",
    ),
    "ECS: constraints that leave out a type": (
        ecs_on(MIXED, placement_constraints=["attribute:ecs.instance-type =~ p3.*"]),
        "'placement_constraints' must admit each of 'instance_types', got 'attribute:ecs.instance-type =~ p3.*', which "
        "leaves out g5.xlarge",
    ),
    "ECS: one text in place of constraints": (
        ecs_on(placement_constraints="attribute:ecs.instance-type =~ g5.*"),
        "'placement_constraints' must be a list of expressions, got the text 'attribute:ecs.instance-type =~ g5.*'",
    ),
    "SageMaker: EC2's names of types": (
        sagemaker(instance_types=["g5.xlarge"]),
        "'instance_types' must be SageMaker's, such as ml.g5.xlarge, got g5.xlarge",
    ),
    "SageMaker: a type that it has not": (
        sagemaker(instance_types=["ml.g4dn.metal"]),
        "'instance_types' must be types that SageMaker trains on, got ml.g4dn.metal",
    ),
    "SageMaker: fewer GPUs than an instance has": (
        sagemaker(max_gpus=2),
        "'max_gpus' must be at least 4, the largest weight, got 2",
    ),
    "SageMaker: no job at a time": (
        sagemaker(max_concurrent_jobs=0),
        "'max_concurrent_jobs' must be a whole number from 1 to 10, got 0",
    ),
    "SageMaker: half a GiB": (
        sagemaker(volume_gib=0.5),
        "'volume_gib' must be a whole number from 1 to 16384, got 0.5",
    ),
    "SageMaker: zones": (
        sagemaker(capacity_plan=CapacityPlan.spot_first()),
        "'capacity_plan' must have attempts without zones, because SageMaker chooses the zone of a job; give 'vpc' and "
        "'vpc_subnets' to limit its choice",
    ),
    "SageMaker: an attempt with another type": (
        sagemaker(capacity_plan=attempts(CapacityAttempt(market="spot", instance_types=["ml.g6.xlarge"]))),
        "'instance_types' of an attempt must be among the engine's, ml.g5.xlarge, ml.g5.12xlarge, got ml.g6.xlarge",
    ),
    "SageMaker: a plan that does not fit every run": (
        sagemaker(capacity_plan=attempts(CapacityAttempt(market="spot", instance_types=["ml.g5.12xlarge"]))),
        "'capacity_plan' must have an attempt with a type of 1 GPUs, the smallest, so that it fits every run",
    ),
    "SageMaker: subnets without their network": (
        sagemaker(vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)),
        "'vpc_subnets' must be given together with 'vpc', got it alone",
    ),
    "SageMaker: a run that outlasts every job": (
        sagemaker(timeouts=RunTimeouts(max_runtime=Duration.days(5))),
        "'max_runtime' must be at most 4 days 22 hours on SageMaker, which ends every job, start and save "
        "included, after 5 days, got 5 days; use Engine.ec2 or Engine.ecs for longer runs",
    ),
    "SageMaker: two trainings": (
        lambda: serve_twice(Engine.sagemaker(instance_types=["ml.g5.xlarge"], max_gpus=4), Stack()),
        "'engine' must serve one training; call Engine.sagemaker once for each training",
    ),
}


@pytest.mark.parametrize("combination", REFUSED)
def test_what_no_engine_serves_is_refused_in_a_sentence(combination: str) -> None:
    """The message names the argument, what it must be, and the value, before anything is deployed."""
    use, sentence = REFUSED[combination]
    # WHEN
    with pytest.raises(ValueError, match="must") as refused:
        use()
    # THEN
    assert str(refused.value) == sentence


def test_the_longest_run_of_sagemaker_is_served() -> None:
    """A run that SageMaker's longest job has time for is not refused."""
    sagemaker(timeouts=RunTimeouts(max_runtime=Duration.minutes(118 * 60 + 30)))()
