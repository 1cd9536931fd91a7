"""Executions of a state machine: their ARNs, and accepted cdk-nag findings about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn

from cdk_horovod.acknowledgements import acknowledge, acknowledge_objects, acknowledge_objects_in


def executions_of(machine: sfn.IStateMachine) -> str:
    """Return the common prefix of the ARNs of all executions of *machine*, without the last colon."""
    if not isinstance(machine, sfn.StateMachine):
        # The ARN of an imported state machine may be of another account or Region, and may be a CDK token.
        parts = Stack.of(machine).split_arn(machine.state_machine_arn, ArnFormat.COLON_RESOURCE_NAME)
        return Stack.of(machine).format_arn(
            partition=parts.partition,
            service="states",
            region=parts.region,
            account=parts.account,
            resource="execution",
            resource_name=parts.resource_name,
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
    return Stack.of(machine).format_arn(
        service="states",
        resource="execution",
        resource_name=machine.state_machine_name,
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )


def accept_executions(grantee: iam.IGrantable | iam.Policy, machine: sfn.IStateMachine) -> None:
    """Accept that a policy of *grantee* names all executions of *machine*."""
    acknowledge_objects(
        grantee,
        owner=machine,
        arn=executions_of(machine),
        path=":*",
        reason="An execution has the name of its run, which is not known at synthesis.",
    )


def accept_executions_in(stack: Stack, machine: sfn.IStateMachine) -> None:
    """
    Accept that policies of *stack* name all executions of *machine*, where it is not known which role will.

    A state of a definition does not know the state machine that it will be in.
    """
    acknowledge_objects_in(
        stack,
        owner=machine,
        arn=executions_of(machine),
        path=":*",
        reason="A state machine that waits for runs names all of them: an execution's name is not known at synthesis.",
    )


def permit_workflow(
    machine: sfn.StateMachine, *, wildcards: Mapping[str, str], reads: Sequence[sfn.StateMachine] = ()
) -> None:
    """
    Accept cdk-nag's findings about the role of a state machine of this library.

    Args:
        machine: The state machine.
        wildcards: ARNs with a wildcard in its permissions, each with the reason.
        reads: State machines whose executions it describes.
    """
    acknowledge(
        machine.role,
        rule="IAM5[Resource::*]",
        reason="Describe actions, the Price List, PutMetricData, X-Ray and log delivery support no resource-level "
        "permissions; conditions limit launches to the fleets' launch templates, and lists of ECS tasks to a cluster.",
    )
    for arn, why in wildcards.items():
        acknowledge_objects(machine.role, owner=machine, arn=arn, path="", reason=why)
    for read in reads:
        accept_executions(machine.role, read)


def permit_own_executions(machine: sfn.StateMachine) -> None:
    """
    Let the executions of *machine* describe themselves.

    A separate policy, because it names the machine: the role's default policy must exist before the machine.
    """
    policy = iam.Policy(
        machine,
        "OwnExecutions",
        statements=[
            iam.PolicyStatement(actions=["states:DescribeExecution"], resources=[f"{executions_of(machine)}:*"])
        ],
        roles=[machine.role],
    )
    accept_executions(policy, machine)
