"""The ledger: a DynamoDB table with leases, queue, runs, nodes and progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aws_cdk import RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from constructs import Construct

from horovod_node import contract

_READ: Final = ("dynamodb:GetItem", "dynamodb:Query")
_WRITE: Final = ("dynamodb:PutItem", "dynamodb:UpdateItem")
_LEADING_KEYS: Final = "dynamodb:LeadingKeys"
_SERVES: Final = "cdk_horovod:serves"


class Ledger(Construct):
    """
    DynamoDB table of one training, with the items that `horovod_node.contract` describes.

    Creates: one table, billed per request, with point-in-time recovery, encrypted with the account's `aws/dynamodb`
    key, and with the attribute `remove_at` as time to live.

    Cost at rest: the stored items and their backup, fractions of a cent for thousands of runs.

    Args:
        removal_policy:
            Whether the table is deleted with the stack. Receipts, which must outlive it, are in S3.
            Default: `DESTROY`.
    """

    def __init__(self, scope: Construct, id: str, *, removal_policy: RemovalPolicy = RemovalPolicy.DESTROY) -> None:
        super().__init__(scope, id)
        self.table = dynamodb.Table(
            self,
            "Table",
            partition_key=dynamodb.Attribute(name=contract.PARTITION_KEY, type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name=contract.SORT_KEY, type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            time_to_live_attribute=contract.TTL_ATTRIBUTE,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            encryption=dynamodb.TableEncryption.AWS_MANAGED,
            removal_policy=removal_policy,
        )

    def serve(self, training: Construct, *, name: str) -> None:
        """
        Reserve the ledger for *training*, because nodes may read only runs of their own training.

        Args:
            training: The training that uses the ledger.
            name: Name of the training in the ids of runs (`contract.run_id`).

        Raises:
            ValueError: If another training already uses the ledger.
        """
        for entry in self.node.metadata:
            if entry.type == _SERVES and entry.data != name:
                raise ValueError(
                    f"'ledger' must serve one training, got {self.node.path}, which already serves {entry.data}: give "
                    f"{training.node.path} its own ledger"
                )
        self.node.add_metadata(_SERVES, name)

    def grant_node(self, grantee: iam.IGrantable, *, fleet: str, training: str) -> iam.Grant:
        """
        Let a node read its training's runs, read and write its fleet's items, and renew its fleet's lease.

        A node runs the user's script with its own permissions. It therefore cannot write the items of runs, cannot read
        the items of other fleets' nodes, such as task tokens, and can change only the expiry of its lease.

        IAM compares the partition keys of a request (`dynamodb:LeadingKeys`) and its attributes, including those in
        conditions (`dynamodb:Attributes`). Source: DynamoDB Developer Guide, "Using IAM policy conditions for
        fine-grained access control".

        Args:
            grantee: Role of the nodes.
            fleet: Name of the nodes' fleet in the ledger.
            training: Name of their training in the ids of runs.
        """
        lease, _ = contract.lease_key(fleet)
        shared = [f"{prefix}{fleet}#*" for prefix in (contract.NODES_PREFIX, contract.SECRETS_PREFIX)]
        runs = f"{contract.RUN_PREFIX}{contract.training_prefix(training)}*"
        read = _grant(grantee, self.table, _READ, {"ForAllValues:StringLike": {_LEADING_KEYS: [*shared, lease, runs]}})
        write = _grant(grantee, self.table, _WRITE, {"ForAllValues:StringLike": {_LEADING_KEYS: shared}})
        attributes = [contract.PARTITION_KEY, contract.SORT_KEY, contract.EXPIRES_AT]
        renew = _grant(
            grantee,
            self.table,
            ("dynamodb:UpdateItem",),
            {
                "ForAllValues:StringEquals": {_LEADING_KEYS: [lease], "dynamodb:Attributes": attributes},
            },
        )
        return read.combine(write).combine(renew)

    def grant_instance(self, grantee: iam.IGrantable, *, fleet: str, training: str) -> iam.Grant:
        """
        Let an instance whose containers have a role of their own watch its run, and say that it boots.

        The dead-man's switch reads the fleet's lease and the run's cost ceiling; user data writes `contract.boot_key`.

        Args:
            grantee: Role of the instances.
            fleet: Name of their fleet in the ledger.
            training: Name of their training in the ids of runs.
        """
        lease, _ = contract.lease_key(fleet)
        runs = f"{contract.RUN_PREFIX}{contract.training_prefix(training)}*"
        nodes = f"{contract.NODES_PREFIX}{fleet}#*"
        read = _grant(
            grantee, self.table, ("dynamodb:GetItem",), {"ForAllValues:StringLike": {_LEADING_KEYS: [lease, runs]}}
        )
        write = _grant(
            grantee, self.table, ("dynamodb:PutItem",), {"ForAllValues:StringLike": {_LEADING_KEYS: [nodes]}}
        )
        return read.combine(write)

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let a client read runs, nodes, queues and leases, but not task tokens."""
        return grant_read_ledger(grantee, table=self.table)


def grant_read_ledger(grantee: iam.IGrantable, *, table: dynamodb.ITable) -> iam.Grant:
    """Let *grantee* read runs, nodes, queues and leases in *table*, but not task tokens."""
    shown = (contract.FLEET_PREFIX, contract.QUEUE_PREFIX, contract.RUN_PREFIX, contract.NODES_PREFIX)
    keys = [f"{prefix}*" for prefix in shown]
    return _grant(grantee, table, (*_READ, "dynamodb:BatchGetItem"), {"ForAllValues:StringLike": {_LEADING_KEYS: keys}})


def _grant(
    grantee: iam.IGrantable,
    table: dynamodb.ITable,
    actions: tuple[str, ...],
    conditions: Mapping[str, Any] | None = None,
) -> iam.Grant:
    return iam.Grant.add_to_principal(
        grantee=grantee,
        actions=list(actions),
        resource_arns=[table.table_arn],
        conditions=None if conditions is None else dict(conditions),
    )
