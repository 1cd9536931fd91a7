"""Permissions of the nodes of a fleet."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge_objects
from cdk_horovod.engines import FleetConfig
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.resources.storage import ITrainingStorage


def permit_nodes(
    scope: Construct,
    *,
    fleet: FleetConfig,
    training: str,
    machine: sfn.StateMachine,
    ledger: Ledger,
    storage: ITrainingStorage,
    data_buckets: Sequence[s3.IBucket],
    log_group: logs.ILogGroup,
) -> None:
    """
    Let the nodes of *fleet* answer task tokens, use ledger and log, read data, and store the results of runs.

    Args:
        scope: Scope of the policy.
        fleet: The fleet.
        training: Name of the training in the ids of runs.
        machine: The runs' state machine.
        ledger: The training's ledger.
        storage: The training's buckets.
        data_buckets: Further buckets from which runs may read data.
        log_group: Log group of the nodes.
    """
    # A separate policy: in the role's default policy the state machine's ARN would make a circular dependency (state
    # machine, group, launch template, role policy, state machine).
    role = fleet.node_role
    policy = iam.Policy(scope, f"NodePolicy{fleet.id}", roles=[role])
    policy.add_statements(
        iam.PolicyStatement(
            actions=["states:SendTaskSuccess", "states:SendTaskFailure", "states:SendTaskHeartbeat"],
            resources=[machine.state_machine_arn],
        ),
        iam.PolicyStatement(actions=["logs:CreateLogStream", "logs:PutLogEvents"], resources=[log_group.log_group_arn]),
        *fleet.node_statements,
    )
    ledger.grant_node(role, fleet=fleet.id, training=training)
    storage.grant_read_data(role)
    storage.grant_write_models(role, training=training)
    storage.grant_mirror_checkpoints(role, training=training)
    storage.grant_mirror_tensorboard(role, training=training)
    for bucket in data_buckets:
        role.add_to_principal_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=[bucket.bucket_arn]))
        role.add_to_principal_policy(
            iam.PolicyStatement(actions=["s3:GetObject"], resources=[bucket.arn_for_objects("*")])
        )
        if bucket.encryption_key is not None:
            bucket.encryption_key.grant_decrypt(role)
        acknowledge_objects(
            role,
            owner=bucket,
            arn=bucket.bucket_arn,
            path="/*",
            reason="A request names the prefixes that it reads, so every object of a data bucket must be readable.",
        )
