#!/usr/bin/env python3
"""The same training twice, as a cdk.Stage: small for development, large for production."""

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks
from constructs import Construct

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingAlarms, TrainingNetwork, TrainingStorage


class TrainingStage(cdk.Stage):
    """Buckets in a stack of their own, which stays when the other one is deleted and deployed again."""

    def __init__(self, scope: Construct, id: str, *, max_gpus: int, max_cost_usd: float, **options: cdk.Environment):
        super().__init__(scope, id, **options)
        storage = TrainingStorage(cdk.Stack(self, "Storage"), "Storage")
        stack = cdk.Stack(self, "Training")
        network = TrainingNetwork(stack, "Network")
        fleet = GpuFleet(
            stack,
            "Fleet",
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            boundary=network.boundary,
            instance_types=["g5.12xlarge", "g5.4xlarge"],
            max_gpus=max_gpus,
            on_demand_base_gpus=1,
        )
        training = HorovodTraining(
            stack, "Training", storage=storage, engine=Engine.ec2(fleet), max_cost_usd=max_cost_usd
        )
        TrainingAlarms(stack, "Alarms", training=training)


app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
TrainingStage(app, "Dev", max_gpus=8, max_cost_usd=20)
TrainingStage(app, "Prod", max_gpus=64, max_cost_usd=500)
app.synth()
