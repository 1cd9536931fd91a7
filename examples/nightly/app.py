#!/usr/bin/env python3
"""A training that starts every night."""

import json
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_scheduler_targets as targets
from aws_cdk import aws_sqs as sqs
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import Engine, GpuFleet, HorovodTraining, RunNotifications, TrainingNetwork, TrainingStorage

# What `cdk-horovod train … --dry-run` prints under `input`.
REQUEST = json.loads((Path(__file__).parent / "request.json").read_text())

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "NightlyTraining")
network = TrainingNetwork(stack, "Network")
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
    stack, "Training", storage=TrainingStorage(stack, "Storage"), engine=Engine.ec2(fleet), max_cost_usd=100
)
RunNotifications(stack, "Notifications", training=training)
# A start that Step Functions refuses for an hour is left here, and not made up for in the morning.
not_started = sqs.Queue(stack, "NotStarted", enforce_ssl=True)
cdk.Validations.of(not_started).acknowledge(
    cdk.Acknowledgment(id="AwsSolutions::AwsSolutions-SQS3", reason="This is a dead-letter queue itself.")
)
scheduler.Schedule(
    stack,
    "EveryNight",
    schedule=scheduler.ScheduleExpression.cron(hour="2", minute="30", time_zone=cdk.TimeZone.EUROPE_BERLIN),
    target=targets.StepFunctionsStartExecution(
        training.state_machine,
        input=scheduler.ScheduleTargetInput.from_object(REQUEST),
        max_event_age=cdk.Duration.hours(1),
        dead_letter_queue=not_started,
    ),
)
app.synth()
