#!/usr/bin/env python3
"""Several teams on shared fleets, and one team with a fleet of its own."""

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import CapacityPlan, Engine, GpuFleet, HorovodTraining, TrainingNetwork, TrainingStorage

SHARED, URGENT = ["vision", "speech"], "forecast"

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "Teams")
network = TrainingNetwork(stack, "Network")
place = {"vpc": network.vpc, "vpc_subnets": network.subnets, "boundary": network.boundary, "on_demand_base_gpus": 1}
small = GpuFleet(stack, "Small", instance_types=["g5.4xlarge", "g5.2xlarge"], max_gpus=8, **place)
large = GpuFleet(stack, "Large", instance_types=["g5.12xlarge"], max_gpus=32, **{**place, "on_demand_base_gpus": 4})

# One queue for both fleets, first come, first served. A run gets the first fleet of this order that fits and is free.
shared = HorovodTraining(
    stack,
    "Shared",
    storage=TrainingStorage(stack, "SharedStorage"),
    engine=Engine.ec2(small, large),
    max_cost_usd=200,
)
# Nobody else waits in this queue; its nodes are On-Demand, and do not wait for Spot either.
urgent = HorovodTraining(
    stack,
    "Urgent",
    storage=TrainingStorage(stack, "UrgentStorage"),
    engine=Engine.ec2(
        GpuFleet(
            stack,
            "Reserved",
            instance_types=["g5.12xlarge"],
            max_gpus=8,
            spot=False,
            capacity_plan=CapacityPlan.on_demand(),
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            boundary=network.boundary,
        )
    ),
    max_cost_usd=1000,
)
# The role of each team. Here everybody of this account whose own policies allow it may assume it.
for team in (*SHARED, URGENT):
    role = iam.Role(stack, team.title(), assumed_by=iam.AccountRootPrincipal())
    training = urgent if team == URGENT else shared
    training.grant_start(role)
    training.grant_stop(role)
    cdk.CfnOutput(stack, f"{team.title()}RoleArn", value=role.role_arn)
app.synth()
