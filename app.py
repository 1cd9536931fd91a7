#!/usr/bin/env python3
"""The CDK app: deploys the stacks with the settings of `cdk.json` (`cdk deploy --all`)."""

import sys

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from stacks.settings import Settings
from stacks.storage_stack import StorageStack
from stacks.training_stack import TrainingStack

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
try:
    settings = Settings.from_context(app.node)
    storage = StorageStack(app, "Storage")
    TrainingStack(app, "Training", storage=storage.storage, settings=settings)
except ValueError as error:
    sys.exit(str(error))
app.synth()
