"""Permissions to watch runs, in addition to those on ledger and buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn

from cdk_horovod.acknowledgements import acknowledge, acknowledge_objects, holder_of


def permit_reading(
    grantee: iam.IGrantable,
    *,
    machine: sfn.IStateMachine,
    log_group: logs.ILogGroup,
    engine_reads: Sequence[str],
    reads_by_resource: Mapping[str, Sequence[str]],
) -> iam.Grant:
    """
    Let *grantee* list runs, read their nodes' logs, see nodes boot, and look up prices.

    Args:
        grantee: Principal that gets the permissions.
        machine: The runs' state machine.
        log_group: Log group of the nodes.
        engine_reads: Actions, on all resources, with which nodes that have not joined yet, and their prices, are seen.
        reads_by_resource: Further such actions, by ARN.
    """
    grants = [
        iam.Grant.add_to_principal(grantee=grantee, actions=actions, resource_arns=[resource])
        for actions, resource in (
            (["states:ListExecutions"], machine.state_machine_arn),
            (["logs:DescribeLogStreams", "logs:GetLogEvents"], log_group.log_group_arn),
            ([*engine_reads, "pricing:GetProducts"], "*"),
            *((list(actions), arn) for arn, actions in reads_by_resource.items()),
        )
    ]
    named = dict.fromkeys(reads_by_resource, "A job has the name of its run, which is not known at synthesis.")
    # The ARN of an imported log group is that of all its streams.
    named[log_group.log_group_arn] = "The nodes of every run have log streams of their own."
    for arn, reason in named.items():
        if arn.endswith("*"):
            acknowledge_objects(grantee, owner=machine, arn=arn.removesuffix("*"), path="*", reason=reason)
    holder = holder_of(grantee)
    if holder is not None:
        acknowledge(
            holder,
            rule="IAM5[Resource::*]",
            reason="These actions support no resource-level permissions; they read groups and public prices.",
        )
    return reduce(iam.Grant.combine, grants)
