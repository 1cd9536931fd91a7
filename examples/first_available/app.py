#!/usr/bin/env python3
"""A training on the team's own Spot instances, and on SageMaker where EC2 has none."""

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import (
    CapacityAttempt,
    CapacityPlan,
    Engine,
    GpuFleet,
    HorovodTraining,
    TrainingAlarms,
    TrainingNetwork,
    TrainingStorage,
)

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "FirstAvailable")
network = TrainingNetwork(stack, "Network")
fleet = GpuFleet(
    stack,
    "Fleet",
    vpc=network.vpc,
    vpc_subnets=network.subnets,
    boundary=network.boundary,
    instance_types=["g5.12xlarge", "g5.4xlarge"],
    max_gpus=16,
    on_demand_base_gpus=0,
    # Ten minutes for all nodes, then the next engine.
    capacity_plan=CapacityPlan.attempts([CapacityAttempt(market="spot", time_limit=cdk.Duration.minutes(10))]),
)
training = HorovodTraining(
    stack,
    "Training",
    storage=TrainingStorage(stack, "Storage"),
    engine=Engine.first_available(
        Engine.ec2(fleet),
        Engine.sagemaker(instance_types=["ml.g5.12xlarge", "ml.g5.4xlarge"], max_gpus=16),
    ),
    max_cost_usd=500,
)
TrainingAlarms(stack, "Alarms", training=training)
app.synth()
