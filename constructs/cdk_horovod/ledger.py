"""The table that runs and nodes meet in: leases, runs, nodes, progress."""

from __future__ import annotations

from typing import Final

from aws_cdk import RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from constructs import Construct

from horovod_node import contract

_READ: Final = ("dynamodb:GetItem", "dynamodb:Query")
_WRITE: Final = ("dynamodb:PutItem", "dynamodb:UpdateItem")


class Ledger(Construct):
    """
    DynamoDB table with the items that `horovod_node.contract` describes.

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

    def grant_node(self, grantee: iam.IGrantable, *, fleet: str) -> iam.Grant:
        """
        Allow what a node does: read everything, write items of runs, and renew its own fleet's lease.

        A node runs the user's script with its own permissions. It therefore may not write who holds a lease, with which
        the script could stop the run of somebody else: of a lease it may touch the expiry only, of its own fleet only.

        Args:
            fleet: Name of the node's fleet in the ledger.
        """
        read = self._grant(grantee, _READ)
        write = iam.Grant.add_to_principal(
            grantee=grantee,
            actions=list(_WRITE),
            resource_arns=[self.table.table_arn],
            conditions={"ForAllValues:StringLike": {"dynamodb:LeadingKeys": [f"{contract.RUN_PREFIX}*"]}},
        )
        partition, _ = contract.lease_key(fleet)
        renew = iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["dynamodb:UpdateItem"],
            resource_arns=[self.table.table_arn],
            conditions={
                "ForAllValues:StringEquals": {
                    "dynamodb:LeadingKeys": [partition],
                    "dynamodb:Attributes": [contract.PARTITION_KEY, contract.SORT_KEY, contract.EXPIRES_AT],
                },
            },
        )
        return read.combine(write).combine(renew)

    def grant_workflow(self, grantee: iam.IGrantable) -> iam.Grant:
        """Allow what a state machine does: read and write every item, and release leases."""
        return self._grant(grantee, (*_READ, *_WRITE, "dynamodb:DeleteItem"))

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Allow to look at runs and leases, as a client does."""
        return self._grant(grantee, (*_READ, "dynamodb:BatchGetItem"))

    def _grant(self, grantee: iam.IGrantable, actions: tuple[str, ...]) -> iam.Grant:
        return iam.Grant.add_to_principal(grantee=grantee, actions=list(actions), resource_arns=[self.table.table_arn])
