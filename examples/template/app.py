#!/usr/bin/env python3
"""A training as a CloudFormation template, for teams whose stacks are not in Python: a product of Service Catalog."""

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_servicecatalog as servicecatalog
from cdk_nag import AwsSolutionsChecks
from constructs import Construct

from cdk_horovod import (
    Engine,
    GpuFleet,
    HorovodTraining,
    TrainingAlarms,
    TrainingImage,
    TrainingNetwork,
    TrainingStorage,
)

INSTANCE_TYPES, MAX_GPUS, MAX_COST_USD = ["g5.12xlarge", "g5.4xlarge"], 16, 500


class TrainingProduct(servicecatalog.ProductStack):
    """A template without assets, which needs neither Python nor the CDK where it is deployed."""

    def __init__(self, scope: Construct, id: str) -> None:
        super().__init__(scope, id)
        repository = cdk.CfnParameter(self, "ImageRepository", description="Name of the image's repository in ECR")
        tag = cdk.CfnParameter(self, "ImageTag", description="Tag of the image, or its digest, sha256:…")
        network = TrainingNetwork(self, "Network", max_azs=2)
        fleet = GpuFleet(
            self,
            "Fleet",
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            boundary=network.boundary,
            instance_types=INSTANCE_TYPES,
            max_gpus=MAX_GPUS,
            on_demand_base_gpus=1,
        )
        training = HorovodTraining(
            self,
            "Training",
            storage=TrainingStorage(self, "Storage"),
            engine=Engine.ec2(fleet),
            image=TrainingImage.from_ecr(
                ecr.Repository.from_repository_name(self, "Images", repository.value_as_string),
                tag=tag.value_as_string,
            ),
            max_cost_usd=MAX_COST_USD,
        )
        alarms = TrainingAlarms(self, "Alarms", training=training)
        # Grants are calls of Python, so the template brings what they would have made.
        submitters = iam.ManagedPolicy(self, "Submitters", description="Starts, sees and stops runs")
        training.grant_start(submitters)
        training.grant_stop(submitters)
        for name, value in {
            "SubmittersPolicyArn": submitters.managed_policy_arn,
            "StateMachineArn": training.state_machine.state_machine_arn,
            "AlarmTopicArn": alarms.topic.topic_arn,
        }.items():
            cdk.CfnOutput(self, name, value=value)


app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "TrainingCatalog")
product = servicecatalog.CloudFormationProduct(
    stack,
    "Product",
    product_name="Horovod training",
    owner="Platform team",
    product_versions=[
        servicecatalog.CloudFormationProductVersion(
            product_version_name="1",
            cloud_formation_template=servicecatalog.CloudFormationTemplate.from_product_stack(
                TrainingProduct(stack, "Training")
            ),
        )
    ],
)
portfolio = servicecatalog.Portfolio(stack, "Portfolio", display_name="Machine learning", provider_name="Platform team")
portfolio.add_product(product)
app.synth()
