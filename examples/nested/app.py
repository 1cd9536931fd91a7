#!/usr/bin/env python3
"""A training as a step of another state machine: train, then publish where the model is."""

import aws_cdk as cdk
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingNetwork, TrainingStorage

PARAMETER = "digits/model"

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
stack = cdk.Stack(app, "NestedTraining")
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
    stack, "Training", storage=TrainingStorage(stack, "Storage"), engine=Engine.ec2(fleet), max_cost_usd=500
)

# The input of the release is the request of the run. A release that is stopped stops its run, too.
train = training.run_task(
    stack, "Train", request="{% $states.input %}", name="{% 'release-' & $states.context.Execution.Name %}"
)
publish = tasks.CallAwsService.jsonata(
    stack,
    "Publish the model",
    service="ssm",
    action="putParameter",
    iam_action="ssm:PutParameter",
    parameters={
        "Name": f"/{PARAMETER}",
        "Value": "{% $states.input.model %}",
        "Type": "String",
        "Overwrite": True,
    },
    iam_resources=[stack.format_arn(service="ssm", resource="parameter", resource_name=PARAMETER)],
    outputs="{% $states.input %}",
)
release = sfn.StateMachine(
    stack,
    "Release",
    query_language=sfn.QueryLanguage.JSONATA,
    definition_body=sfn.DefinitionBody.from_chainable(train.next(publish)),
    logs=sfn.LogOptions(destination=logs.LogGroup(stack, "ReleaseLogs"), level=sfn.LogLevel.ALL),
    tracing_enabled=True,
)
cdk.Validations.of(release.role).acknowledge(
    cdk.Acknowledgment(
        id="AwsSolutions::AwsSolutions-IAM5[Resource::*]",
        reason="X-Ray and log delivery support no resource-level permissions.",
    )
)
cdk.CfnOutput(stack, "ReleaseArn", value=release.state_machine_arn)
app.synth()
