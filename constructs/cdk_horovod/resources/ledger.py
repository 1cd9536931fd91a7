"""The table that runs and nodes meet in: leases, runs, nodes, progress."""

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
    key, and with items dropped after the time that their `remove_at` names.

    Cost at rest: the stored items and their recovery copy, fractions of a cent for thousands of runs.

    Args:
        removal_policy:
            What becomes of the table when the stack is deleted. What must outlive it, the receipts, is in S3.
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
        Claim the ledger for *training*: nodes may read the runs of their own training, but not those of another one.

        Args:
            training: Who uses the ledger.
            name: Its name in the ids of runs (`contract.run_id`).

        Raises:
            ValueError: If another training uses the ledger already.
        """
        for entry in self.node.metadata:
            if entry.type == _SERVES and entry.data != name:
                raise ValueError(
                    f"'ledger' must serve one training, got {self.node.path}, which already serves {entry.data}: give "
                    f"{training.node.path} a ledger of its own"
                )
        self.node.add_metadata(_SERVES, name)

    def grant_node(self, grantee: iam.IGrantable, *, fleet: str, training: str) -> iam.Grant:
        """
        Allow what a node does: read its training's runs, read and write what its own fleet's nodes share, and renew its
        own fleet's lease.

        A node runs the user's script with its own permissions. It therefore writes no run's own item and no receipt,
        sees nothing that other fleets' nodes share, task tokens included, and touches of its lease the expiry only.

        IAM compares the partition keys of a request (`dynamodb:LeadingKeys`) and the attributes that it names, those of
        its conditions included (`dynamodb:Attributes`). Source: DynamoDB Developer Guide, "Using IAM policy conditions
        for fine-grained access control".

        Args:
            fleet: Name of the node's fleet in the ledger.
            training: Name of its training in the ids of runs.
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

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Allow to look at runs, nodes, queues and leases, as a client does, but not at nodes' secrets."""
        return grant_read_ledger(grantee, table=self.table)


def grant_read_ledger(grantee: iam.IGrantable, *, table: dynamodb.ITable) -> iam.Grant:
    """Allow *grantee* to look at runs, nodes, queues and leases in *table*, but not at nodes' secrets."""
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
