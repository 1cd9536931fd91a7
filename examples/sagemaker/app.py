#!/usr/bin/env python3
"""A training whose nodes are the containers of SageMaker training jobs."""

from pathlib import Path

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import Engine, HorovodTraining, TrainingAlarms, TrainingImage, TrainingStorage

IMAGE = Path(__file__).resolve().parents[2] / "training_image"

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "SageMakerTraining")
training = HorovodTraining(
    stack,
    "Training",
    storage=TrainingStorage(stack, "Storage"),
    image=TrainingImage.from_asset(IMAGE),
    engine=Engine.sagemaker(instance_types=["ml.g5.12xlarge", "ml.g5.4xlarge"], max_gpus=16),
    max_cost_usd=500,
)
TrainingAlarms(stack, "Alarms", training=training)
app.synth()
