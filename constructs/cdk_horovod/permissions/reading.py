"""Permissions to watch runs, in addition to those on ledger and buckets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn

from cdk_horovod.acknowledgements import acknowledge, holder_of


def permit_reading(
    grantee: iam.IGrantable, *, machine: sfn.IStateMachine, log_group: logs.ILogGroup, engine_reads: Sequence[str]
) -> iam.Grant:
    """
    Let *grantee* list runs, read their nodes' logs, see nodes boot, and look up prices.

    Args:
        grantee: Principal that gets the permissions.
        machine: The runs' state machine.
        log_group: Log group of the nodes.
        engine_reads: Actions with which nodes that have not joined yet, and their prices, are seen.
    """
    grants = [
        iam.Grant.add_to_principal(grantee=grantee, actions=actions, resource_arns=[resource])
        for actions, resource in (
            (["states:ListExecutions"], machine.state_machine_arn),
            (["logs:DescribeLogStreams", "logs:GetLogEvents"], log_group.log_group_arn),
            ([*engine_reads, "pricing:GetProducts"], "*"),
        )
    ]
    holder = holder_of(grantee)
    if holder is not None:
        acknowledge(
            holder,
            rule="IAM5[Resource::*]",
            reason="These actions support no resource-level permissions; they read groups and public prices.",
        )
    return reduce(iam.Grant.combine, grants)
