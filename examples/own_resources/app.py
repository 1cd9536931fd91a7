#!/usr/bin/env python3
"""A training in a VPC, with buckets, a key and a topic that exist already."""

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import Engine, GpuFleet, HorovodTraining, RunNotifications, TrainingAlarms, TrainingStorage

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "OwnResources")
ours = app.node.get_context("ours")

vpc = ec2.Vpc.from_vpc_attributes(
    stack,
    "Vpc",
    vpc_id=ours["vpc"],
    availability_zones=ours["zones"],
    private_subnet_ids=ours["private_subnets"],
)
key = kms.Key.from_key_arn(stack, "Key", ours["key"])
data, models = (
    s3.Bucket.from_bucket_attributes(stack, name, bucket_name=ours[name], encryption_key=key)
    for name in ("data", "models")
)
topic = sns.Topic.from_topic_arn(stack, "Topic", ours["topic"])
fleet = GpuFleet(
    stack,
    "Fleet",
    vpc=vpc,
    instance_types=["g5.12xlarge", "g5.4xlarge"],
    max_gpus=16,
    on_demand_base_gpus=1,
    encryption_key=key,
)
training = HorovodTraining(
    stack,
    "Training",
    storage=TrainingStorage.from_buckets(stack, "Storage", data_bucket=data, model_bucket=models),
    engine=Engine.ec2(fleet),
    max_cost_usd=500,
)
TrainingAlarms(stack, "Alarms", training=training, topic=topic)
RunNotifications(stack, "Notifications", training=training, topic=topic)
app.synth()
