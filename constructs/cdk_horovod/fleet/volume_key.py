"""Policy of the KMS key that encrypts a fleet's volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import aws_iam as iam

if TYPE_CHECKING:
    from aws_cdk import Stack
    from aws_cdk import aws_kms as kms


def let_auto_scaling_use(key: kms.IKey, *, stack: Stack) -> None:
    """
    Let EC2 Auto Scaling's service-linked role start instances whose volumes *key* encrypts.

    Source: EC2 Auto Scaling User Guide, "Required AWS KMS key policy for use with encrypted volumes". The role is named
    in a condition instead of as principal, because KMS refuses a principal that does not exist, and the role exists
    only after the account's first Auto Scaling group.
    """
    service_role = stack.format_arn(
        service="iam",
        region="",
        resource="role",
        resource_name="aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling*",
    )
    whom = {"StringEquals": {"kms:CallerAccount": stack.account}, "ArnLike": {"aws:PrincipalArn": service_role}}
    for actions, conditions in (
        (
            ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
            whom,
        ),
        (["kms:CreateGrant"], {**whom, "Bool": {"kms:GrantIsForAWSResource": "true"}}),
    ):
        key.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.AnyPrincipal()], actions=actions, resources=["*"], conditions=conditions
            )
        )
