#!/usr/bin/env python3
"""A training whose nodes are the containers of SageMaker training jobs."""

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import Engine, HorovodTraining, TrainingAlarms, TrainingStorage

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "SageMakerTraining")
training = HorovodTraining(
    stack,
    "Training",
    storage=TrainingStorage(stack, "Storage"),
    engine=Engine.sagemaker(instance_types=["ml.g5.12xlarge", "ml.g5.4xlarge"], max_gpus=16),
    max_cost_usd=500,
)
TrainingAlarms(stack, "Alarms", training=training)
app.synth()
