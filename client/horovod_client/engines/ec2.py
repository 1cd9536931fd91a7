"""The engine `Engine.ec2`: instances of a GPU fleet."""

from __future__ import annotations

from typing import Final

from horovod_client.engines.facts import NO_SUCH_STEP, NOT_MEASURED, Ability, EngineFacts, Fact

EC2: Final = EngineFacts(
    name="ec2",
    nodes=Fact(says="instance of a GpuFleet"),
    on_demand_price=Fact(says="EC2's"),
    spot_price=Fact(says="EC2's, by zone"),
    billed=Fact(says="each instance, from its start to its end"),
    capacity=Fact(
        says="not measured; at most 55 min by default",
        source="docs/capacity.md: 10 min for Spot, 5 for Spot in each of three zones, 30 for On-Demand",
    ),
    boot=Fact(
        says="not measured; 4 to 5 min in AWS ParallelCluster",
        source="github.com/aws-samples/aws-eda-slurm-cluster/issues/148, about nodes with another machine image",
    ),
    placement=NO_SUCH_STEP,
    image_pull=NOT_MEASURED,
    joining=Fact(
        says="0.5 to 2.4 s for 2 to 256 nodes, emulated",
        source="docs/benchmarks.md: the real agents in the local cloud, in simulated time",
    ),
    elastic=Ability(can=True),
    mixed_markets=Ability(can=True, how="the leader is On-Demand"),
    mixed_types=Ability(can=True),
    replacement=Ability(can=True),
    spot_notice=Ability(
        can=True, how="2 min", source='EC2 User Guide, "Spot Instance interruption notices": on a best-effort basis'
    ),
    efa=Ability(can=True, how="not yet run on an adapter", source="docs/efa.md"),
    early_release=Ability(can=True),
    dead_mans_switch=Ability(can=True, how="systemd unit on each instance"),
    at_rest=Fact(
        says="nothing; the VPC 0 to 110 USD a month",
        source="the modes of TrainingNetwork at list prices of us-east-1, as in README.md",
    ),
    to_own=Fact(says="VPC, machine image, launch template, Auto Scaling group"),
    quotas=Fact(says="EC2's: vCPUs by family and market"),
)
