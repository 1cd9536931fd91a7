"""Access of people to nodes through Session Manager."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge


def let_people_log_in(scope: Construct, *, role: iam.IRole) -> None:
    """
    Let the Systems Manager agent of instances with *role* register itself and open sessions.

    Source: Systems Manager User Guide, "Add Session Manager permissions to an existing IAM role", without the
    permissions for session logs and their keys. Users also need `ssm:StartSession`.

    Args:
        scope: Scope of the policy.
        role: Role of the instances.
    """
    policy = iam.Policy(
        scope,
        "SessionManager",
        roles=[role],
        statements=[
            iam.PolicyStatement(
                actions=[
                    "ssm:UpdateInstanceInformation",
                    "ssmmessages:CreateControlChannel",
                    "ssmmessages:CreateDataChannel",
                    "ssmmessages:OpenControlChannel",
                    "ssmmessages:OpenDataChannel",
                ],
                resources=["*"],
            )
        ],
    )
    acknowledge(
        policy,
        rule="IAM5[Resource::*]",
        reason="These actions support no resource-level permissions (Service Authorization Reference).",
    )
