"""The engine `Engine.ecs`: tasks of Amazon ECS on the instances of a GPU fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from horovod_client.engines.ec2 import EC2
from horovod_client.engines.facts import NOT_MEASURED, Ability, Fact

ECS: Final = replace(
    # Capacity, prices and termination are those of the fleet's Auto Scaling group.
    EC2,
    name="ecs",
    nodes=Fact(says="ECS task on an instance of a GpuFleet"),
    boot=NOT_MEASURED,
    placement=Fact(
        says="not measured; at most 500 tasks of a service a minute",
        source='AWS General Reference, "Amazon ECS endpoints and quotas"; a fleet has a service for each GPU count',
    ),
    joining=NOT_MEASURED,
    efa=Ability(can=True, how="with a machine image of your own, because ECS's has no EFA"),
    at_rest=Fact(
        says="nothing; the VPC 0 to 153 USD a month",
        source="as for ec2, with seven interface endpoints instead of five in the isolated mode",
    ),
    to_own=Fact(says="as for ec2, and cluster, services, task definitions"),
)
