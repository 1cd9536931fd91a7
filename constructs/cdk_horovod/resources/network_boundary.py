"""What nodes may reach, where a network leads nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam


@dataclass(frozen=True, kw_only=True)
class NetworkBoundary:
    """
    The only ways out of a network, for the security group and the role of those who live in it.

    Args:
        vpc: The network.
        ways_out: Where HTTPS may go to: the security group of interface endpoints, prefix lists of gateway endpoints.
    """

    vpc: ec2.IVpc
    ways_out: Sequence[ec2.IPeer]

    def statement(self) -> iam.PolicyStatement:
        """
        Refuse every call that does not come out of this network through one of its endpoints.

        Credentials that leave an instance are thus worth nothing elsewhere. `aws:SourceVpc` is there only when a call
        came through an endpoint, and a negated operator matches where a key is missing. A call that a service makes
        with the role's credentials, as S3 calls KMS, comes through no endpoint: `aws:ViaAWSService` tells (IAM User
        Guide, "AWS global condition context keys").
        """
        return iam.PolicyStatement(
            sid="OnlyThroughEndpoints",
            effect=iam.Effect.DENY,
            actions=["*"],
            resources=["*"],
            conditions={
                "StringNotEquals": {"aws:SourceVpc": self.vpc.vpc_id},
                "Bool": {"aws:ViaAWSService": "false"},
            },
        )
