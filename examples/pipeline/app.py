#!/usr/bin/env python3
"""A training that CDK Pipelines deploys when its repository changes, after an approval."""

import aws_cdk as cdk
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import pipelines
from constructs import Construct

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingNetwork, TrainingStorage


class TrainingStage(cdk.Stage):
    """What the pipeline deploys."""

    def __init__(self, scope: Construct, id: str, **options: cdk.Environment):
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
            max_gpus=16,
            on_demand_base_gpus=1,
        )
        HorovodTraining(stack, "Training", storage=storage, engine=Engine.ec2(fleet), max_cost_usd=500)


app = cdk.App()
settings = {key: app.node.get_context(key) for key in ("repository", "branch", "connection")}
source = pipelines.CodePipelineSource.connection(
    settings["repository"], settings["branch"], connection_arn=settings["connection"]
)
pipeline = pipelines.CodePipeline(
    cdk.Stack(app, "TrainingPipeline"),
    "Pipeline",
    synth=pipelines.ShellStep(
        "Synth",
        input=source,
        commands=["pip install --requirement requirements.txt", "npx aws-cdk synth"],
    ),
    # The image is built here: it compiles Horovod, and needs more than the smallest machine.
    asset_publishing_code_build_defaults=pipelines.CodeBuildOptions(
        build_environment=codebuild.BuildEnvironment(compute_type=codebuild.ComputeType.LARGE),
        timeout=cdk.Duration.hours(2),
    ),
)
pipeline.add_stage(TrainingStage(app, "Prod"), pre=[pipelines.ManualApprovalStep("Approve")])
app.synth()
