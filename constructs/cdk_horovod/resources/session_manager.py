"""Sessions of people on nodes, for whoever asked for them."""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge


def let_people_log_in(scope: Construct, *, role: iam.IRole) -> None:
    """
    Let the Systems Manager agent of instances with *role* register itself and open sessions.

    Source: Systems Manager User Guide, "Add Session Manager permissions to an existing IAM role", without the logs and
    the keys of sessions that are recorded. Who may start a session is said elsewhere, by `ssm:StartSession`.

    Args:
        scope: Owner of the policy.
        role: The instances' role.
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
        reason="An agent's channels have no resource to name (Service Authorization Reference, ssmmessages).",
    )
