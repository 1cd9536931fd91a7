"""The boundary of an isolated network, which limits what nodes can reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam


@dataclass(frozen=True, kw_only=True)
class NetworkBoundary:
    """
    The destinations that can be reached from a network, for the security group and the role of its nodes.

    Args:
        vpc: The network.
        ways_out: Destinations of HTTPS: security group of the interface endpoints, prefix lists of gateway endpoints.
        ecs: Whether the agent of Amazon ECS reaches it from there. Default: it does.
    """

    vpc: ec2.IVpc
    ways_out: Sequence[ec2.IPeer]
    ecs: bool = True

    def statement(self) -> iam.PolicyStatement:
        """
        Return the statement that denies calls which do not come through an endpoint of this network.

        Credentials of an instance are therefore useless outside of it. A request has `aws:SourceVpc` only if it came
        through an endpoint, and a negated operator matches if the key is missing. Calls that a service makes with the
        role's credentials, such as S3's to KMS, come through no endpoint; `aws:ViaAWSService` identifies them (IAM User
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
