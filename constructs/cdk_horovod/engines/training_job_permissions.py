"""What the workflow may do with training jobs, and what their containers may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge, acknowledge_objects
from cdk_horovod.engines.engine import EngineTarget
from cdk_horovod.engines.training_job_states import MOST_RUNTIME_SECONDS

SCRATCH_PREFIX: Final = "sagemaker/"
"""Prefix in the model bucket that a job must name as its output; it stays empty, because our node uploads the model."""
JOB_READS: Final = ("sagemaker:DescribeTrainingJob",)
"""Actions with which a job is watched before its nodes have joined."""
LOG_GROUP: Final = "/aws/sagemaker/TrainingJobs"
"""Log group, and namespace of metrics, to which SageMaker itself writes for every job."""


def permit_jobs(
    *,
    jobs: str,
    roles: Sequence[iam.IRole],
    types: Sequence[str],
    network: Mapping[str, Any],
    encrypt_traffic: bool,
) -> tuple[iam.PolicyStatement, ...]:
    """
    Return the permissions with which the workflow creates jobs: only such as the engine describes.

    The condition keys are those of `CreateTrainingJob` in the Service Authorization Reference ("Actions, resources, and
    condition keys for Amazon SageMaker"). A warm pool (`sagemaker:KeepAlivePeriod`) keeps billed instances after a job.

    Args:
        jobs: ARN of the jobs, with a wildcard.
        roles: Roles of their containers.
        types: SageMaker's names of their instance types.
        network: Their `VpcConfig`; empty without a VPC.
        encrypt_traffic: Whether the traffic between their containers must be encrypted.
    """
    lists = {"sagemaker:InstanceTypes": list(types)}
    if network:
        lists |= {
            "sagemaker:VpcSubnets": network["Subnets"],
            "sagemaker:VpcSecurityGroupIds": network["SecurityGroupIds"],
        }
    conditions: dict[str, Any] = {
        "ForAllValues:StringEquals": lists,
        # ForAllValues is also true without any value.
        "Null": {**dict.fromkeys(lists, "false"), "sagemaker:KeepAlivePeriod": "true"},
        "NumericLessThanEquals": {"sagemaker:MaxRuntimeInSeconds": str(MOST_RUNTIME_SECONDS)},
        "BoolIfExists": {"sagemaker:EnableRemoteDebug": "false"},
    }
    if encrypt_traffic:
        conditions["Bool"] = {"sagemaker:InterContainerTrafficEncryption": "true"}
    return (
        iam.PolicyStatement(actions=["sagemaker:CreateTrainingJob"], resources=[jobs], conditions=conditions),
        # CreateTrainingJob with tags needs it, too.
        iam.PolicyStatement(actions=["sagemaker:AddTags"], resources=[jobs]),
        iam.PolicyStatement(
            actions=["iam:PassRole"],
            resources=[role.role_arn for role in roles],
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        ),
    )


def job_role(scope: Construct, *, number: int, target: EngineTarget, in_vpc: bool) -> iam.Role:
    """
    Create the role of a job's containers, with what SageMaker itself does with it: logs, metrics, the scratch prefix,
    and network interfaces.

    Source: SageMaker Developer Guide, "How to use SageMaker AI execution roles", "CreateTrainingJob API: Execution
    Role Permissions".
    """
    stack = Stack.of(scope)
    role = iam.Role(
        scope,
        f"JobRole{number}",
        description=f"Containers of training jobs of {target.name}",
        assumed_by=iam.PrincipalWithConditions(
            iam.ServicePrincipal("sagemaker.amazonaws.com"), {"StringEquals": {"aws:SourceAccount": stack.account}}
        ),
    )
    group = stack.format_arn(
        service="logs",
        resource="log-group",
        resource_name=f"{LOG_GROUP}*",
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )
    bucket = target.storage.model_bucket
    statements = [
        iam.PolicyStatement(
            actions=["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            resources=[group],
        ),
        iam.PolicyStatement(
            actions=["cloudwatch:PutMetricData"],
            resources=["*"],
            conditions={"StringEquals": {"cloudwatch:namespace": LOG_GROUP}},
        ),
        iam.PolicyStatement(actions=["s3:PutObject"], resources=[bucket.arn_for_objects(f"{SCRATCH_PREFIX}*")]),
    ]
    if in_vpc:
        statements.append(
            iam.PolicyStatement(
                actions=[
                    "ec2:CreateNetworkInterface",
                    "ec2:CreateNetworkInterfacePermission",
                    "ec2:DeleteNetworkInterface",
                    "ec2:DeleteNetworkInterfacePermission",
                    "ec2:DescribeDhcpOptions",
                    "ec2:DescribeNetworkInterfaces",
                    "ec2:DescribeSecurityGroups",
                    "ec2:DescribeSubnets",
                    "ec2:DescribeVpcs",
                ],
                resources=["*"],
            )
        )
    for statement in statements:
        role.add_to_principal_policy(statement)
    acknowledge(
        role,
        rule="IAM5[Resource::*]",
        reason="Pulling an image, PutMetricData and network interfaces support no resource-level permissions.",
    )
    acknowledge_objects(
        role,
        owner=role,
        arn=group,
        path="",
        reason="SageMaker names the streams of its log group, and their subgroups.",
    )
    acknowledge_objects(
        role,
        owner=bucket,
        arn=bucket.bucket_arn,
        path=f"/{SCRATCH_PREFIX}*",
        reason="SageMaker names what it writes below the output of a job.",
    )
    return role
