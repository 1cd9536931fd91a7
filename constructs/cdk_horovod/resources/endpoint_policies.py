"""Policies of the VPC endpoints in an isolated network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aws_cdk import Stack
from aws_cdk import aws_iam as iam

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from constructs import Construct

_READING: Final = (
    "s3:GetObject",
    "s3:ListBucket",
    "ecr:BatchCheckLayerAvailability",
    "ecr:GetDownloadUrlForLayer",
    "ecr:BatchGetImage",
)
"""Actions of nodes in readable buckets and repositories of other accounts."""
_STORING: Final = (
    "s3:GetObject",
    "s3:ListBucket",
    "s3:PutObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
    "s3:DeleteObject",
)
"""Actions of nodes in a model bucket of another account (`StorageGrants`)."""


def perimeter(
    scope: Construct, *, readable_accounts: Sequence[str], storage_accounts: Sequence[str]
) -> list[iam.PolicyStatement]:
    """
    Return statements that allow only calls of this account's principals on this account's resources.

    Credentials of another account, calls without credentials, and resources of another account are refused. An endpoint
    policy grants nothing by itself; roles still need their own permissions (AWS PrivateLink Guide, "Control access to
    VPC endpoints using endpoint policies"). The statements follow AWS's examples for all services
    (aws-samples/data-perimeter-policy-examples, default_endpoint_policy.json), with the account in place of the
    organisation.

    Args:
        scope: Construct whose stack's account is meant.
        readable_accounts: Ids of other accounts whose buckets and repositories may be read.
        storage_accounts: Ids of other accounts whose buckets may be read and written.
    """
    account = Stack.of(scope).account
    return [
        _allow(actions, conditions={"aws:PrincipalAccount": account, "aws:ResourceAccount": accounts})
        for actions, accounts in (
            (["*"], account),
            (_READING, list(readable_accounts)),
            (_STORING, list(storage_accounts)),
        )
        if accounts
    ]


def image_layers(scope: Construct) -> iam.PolicyStatement:
    """
    Return the statement that allows S3's endpoint to read image layers from Amazon ECR's bucket, as signed by ECR.

    Source: Amazon ECR User Guide, "Amazon ECR interface VPC endpoints", "Minimum Amazon S3 bucket permissions".
    """
    stack = Stack.of(scope)
    bucket = f"arn:{stack.partition}:s3:::prod-{stack.region}-starport-layer-bucket"
    return _allow(["s3:GetObject"], resource=f"{bucket}/*")


def system_packages(scope: Construct) -> iam.PolicyStatement:
    """
    Return the statement that allows S3's endpoint to read the packages of Amazon Linux 2023.

    Source: AL2023's repository configuration, whose mirrors are in this bucket of each Region.
    """
    stack = Stack.of(scope)
    return _allow(["s3:GetObject"], resource=f"arn:{stack.partition}:s3:::al2023-repos-{stack.region}-de612dc2/*")


def _allow(
    actions: Sequence[str], *, resource: str = "*", conditions: Mapping[str, str | Sequence[str]] | None = None
) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        principals=[iam.AnyPrincipal()],
        actions=list(actions),
        resources=[resource],
        conditions={"StringEquals": dict(conditions)} if conditions else None,
    )
