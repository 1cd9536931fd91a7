"""`Ledger`: the table, and who may do what to it."""

from __future__ import annotations

from typing import Any

import pytest
from aws_cdk import App, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam

from cdk_horovod import Ledger
from support.construct_stacks import Stacks, flat, synthesise_validated

pytestmark = pytest.mark.synth


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    def build(app: App) -> None:
        stack = Stack(app, "Ledger")
        ledger = Ledger(stack, "Ledger")
        for grant in ("node", "read"):
            role = iam.Role(stack, grant.title(), assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
            options = {"fleet": "FleetA", "training": "StackTraining"} if grant == "node" else {}
            getattr(ledger, f"grant_{grant}")(role, **options)
        Ledger(Stack(app, "Kept"), "Ledger", removal_policy=RemovalPolicy.RETAIN)

    return synthesise_validated(tmp_path_factory.mktemp("ledger"), build)


def test_table_is_keyed_as_the_contract_says(stacks: Stacks) -> None:
    """Partition key, sort key and expiry bear the names of the contract, which nodes and client use."""
    # WHEN
    table = stacks.resource("Ledger", "AWS::DynamoDB::Table")

    # THEN
    assert table["KeySchema"] == [
        {"AttributeName": "pk", "KeyType": "HASH"},
        {"AttributeName": "sk", "KeyType": "RANGE"},
    ]
    assert {each["AttributeType"] for each in table["AttributeDefinitions"]} == {"S"}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "remove_at", "Enabled": True}


def test_table_costs_by_request_and_can_be_recovered(stacks: Stacks) -> None:
    """No capacity is paid for at rest; items are encrypted and recoverable."""
    # WHEN
    table = stacks.resource("Ledger", "AWS::DynamoDB::Table")

    # THEN
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["SSESpecification"] == {"SSEEnabled": True}


@pytest.mark.parametrize(("stack", "policy"), [("Ledger", "Delete"), ("Kept", "Retain")])
def test_table_goes_with_its_stack(stacks: Stacks, stack: str, policy: str) -> None:
    """The table is deleted with its stack unless the user keeps it, because what must last is in S3."""
    (table,) = stacks.templates[stack].find_resources("AWS::DynamoDB::Table").values()
    assert table["DeletionPolicy"] == policy


@pytest.mark.parametrize(
    ("role", "unconditional", "conditional"),
    [
        (
            "Node",
            set(),
            [
                (
                    {"GetItem", "Query"},
                    {
                        "ForAllValues:StringLike": {
                            "dynamodb:LeadingKeys": [
                                "NODES#FleetA#*",
                                "SECRETS#FleetA#*",
                                "FLEET#FleetA",
                                "RUN#StackTraining/*",
                            ]
                        }
                    },
                ),
                (
                    {"PutItem", "UpdateItem"},
                    {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["NODES#FleetA#*", "SECRETS#FleetA#*"]}},
                ),
                (
                    {"UpdateItem"},
                    {
                        "ForAllValues:StringEquals": {
                            "dynamodb:LeadingKeys": ["FLEET#FleetA"],
                            "dynamodb:Attributes": ["pk", "sk", "expires_at"],
                        }
                    },
                ),
            ],
        ),
        (
            "Read",
            set(),
            [
                (
                    {"BatchGetItem", "GetItem", "Query"},
                    {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["FLEET#*", "QUEUE#*", "RUN#*", "NODES#*"]}},
                )
            ],
        ),
    ],
)
def test_grant_allows_exactly(
    stacks: Stacks, role: str, unconditional: set[str], conditional: list[tuple[set[str], dict[str, Any]]]
) -> None:
    """A node may write what its fleet's nodes share, and of its lease the expiry only."""
    # GIVEN
    (table,) = stacks.resources("Ledger", "AWS::DynamoDB::Table")
    anything: set[str] = set()
    something: list[tuple[set[str], dict[str, Any]]] = []

    # WHEN
    for statement in stacks.statements("Ledger", role=role):
        assert flat(statement["Resource"]) == table
        named = statement["Action"]
        actions = {action.removeprefix("dynamodb:") for action in ([named] if isinstance(named, str) else named)}
        if "Condition" in statement:
            something.append((actions, statement["Condition"]))
        else:
            anything |= actions

    # THEN
    assert (anything, something) == (unconditional, conditional)


def test_needs_no_acknowledgement(stacks: Stacks) -> None:
    """cdk-nag finds nothing in a ledger."""
    assert stacks.accepted == frozenset()


def test_fails_when_a_second_training_is_given_the_ledger() -> None:
    """A ledger serves one training only, because nodes may read its runs; the same one may claim it again."""
    # GIVEN
    stack = Stack(App(), "Ledger")
    ledger = Ledger(stack, "Ledger")
    ledger.serve(stack, name="OneTraining")
    ledger.serve(stack, name="OneTraining")
    # WHEN / THEN
    with pytest.raises(ValueError, match="'ledger' must serve one training, got Ledger/Ledger, which already serves"):
        ledger.serve(stack, name="AnotherTraining")
