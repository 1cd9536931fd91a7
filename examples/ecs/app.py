#!/usr/bin/env python3
"""A training whose nodes are tasks of Amazon ECS: in a cluster of its own, or in one that another team manages."""

import aws_cdk as cdk
from aws_cdk import aws_ecs as ecs
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import (
    Engine,
    GpuFleet,
    HorovodTraining,
    TrainingAlarms,
    TrainingNetwork,
    TrainingStorage,
)

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "EcsTraining")
# Two endpoints more than on EC2, for the agent of ECS.
network = TrainingNetwork(stack, "Network", ecs=True)
fleet = GpuFleet(
    stack,
    "Fleet",
    vpc=network.vpc,
    vpc_subnets=network.subnets,
    boundary=network.boundary,
    instance_types=["g5.12xlarge", "g5.4xlarge"],
    max_gpus=16,
    on_demand_base_gpus=1,
)
name = app.node.try_get_context("cluster")
cluster = ecs.Cluster.from_cluster_attributes(stack, "Cluster", cluster_name=name, vpc=network.vpc) if name else None
training = HorovodTraining(
    stack,
    "Training",
    storage=TrainingStorage(stack, "Storage"),
    engine=Engine.ecs(fleet, cluster=cluster, placement_constraints=["attribute:ecs.instance-type =~ g5.*"]),
    max_cost_usd=500,
)
TrainingAlarms(stack, "Alarms", training=training)
app.synth()
