#!/usr/bin/env python3
"""A training without account and Region: synthesised once, deployed anywhere."""

import aws_cdk as cdk
from aws_cdk import aws_sns_subscriptions as subscriptions
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingAlarms, TrainingNetwork, TrainingStorage

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "AnyTraining")
# What is known only when the stack is deployed is a parameter of it.
email = cdk.CfnParameter(stack, "Email", description="Who hears of alarms", allowed_pattern="[^@]+@[^@]+")
# Two zones, because some Regions have no third one.
network = TrainingNetwork(stack, "Network", max_azs=2)
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
training = HorovodTraining(
    stack,
    "Training",
    storage=TrainingStorage(stack, "Storage"),
    engine=Engine.ec2(fleet),
    max_cost_usd=500,
)
alarms = TrainingAlarms(stack, "Alarms", training=training)
alarms.topic.add_subscription(subscriptions.EmailSubscription(email.value_as_string))
app.synth()
