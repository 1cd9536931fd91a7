"""The evaluator of policies, against AWS's published logic: each test names the page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from horovod_local.permissions.conditions import UnsupportedPolicyError, read_conditions
from horovod_local.permissions.decision import ApplicablePolicies, decide
from horovod_local.permissions.patterns import arn_matches, substitute, text_matches
from horovod_local.permissions.policy import Policy, Request, read_policy
from horovod_local.permissions.principals import Principal

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/node"
NODE = Principal(arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/node/i-1", account=ACCOUNT, role=ROLE)
BUCKET, KEY = "arn:aws:s3:::bucket", f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/k"
ROOT = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}


def policy(*statements: dict[str, Any], name: str = "p") -> Policy:
    """Make a policy; what a statement leaves out, it allows for everything."""
    whole = [{"Effect": "Allow", "Action": "*", "Resource": "*", **statement} for statement in statements]
    return read_policy(name, json.dumps({"Version": "2012-10-17", "Statement": whole}))


def asked(
    action: str = "s3:GetObject", resource: str = f"{BUCKET}/key", who: Principal = NODE, **context: str
) -> Request:
    """Make a request; the keys of its context have `_` for `:`."""
    keys = {name.replace("_", ":", 1): (value,) for name, value in context.items()}
    return Request(principal=who, action=action, resource=resource, context=keys)


def reason(request: Request, *identity: Policy, **others: Any) -> str:
    """Decide, and give the reason of a denial."""
    return decide(request, ApplicablePolicies(identity=identity, **others)).reason


NOT_BY_IDENTITY = "because no identity-based policy allows the s3:GetObject action"


@pytest.mark.parametrize(
    ("identity", "resource", "expected"),
    [
        # "By default, all requests are denied."
        ([], None, NOT_BY_IDENTITY),
        ([{}], None, ""),
        # "Within the same account, if either allows the action, it is allowed."
        ([], {"Principal": {"AWS": ROLE}}, ""),
        ([], {"Principal": "*"}, ""),
        # A policy that names the account leaves it to the account's identity-based policies.
        ([], {"Principal": ROOT}, NOT_BY_IDENTITY),
        ([], {"Principal": {"AWS": f"{ROLE}2"}}, NOT_BY_IDENTITY),
        # "An explicit deny in any of these policies overrides the allow."
        ([{}, {"Effect": "Deny"}], None, "with an explicit deny in an identity-based policy"),
        ([{}], {"Effect": "Deny", "Principal": "*"}, "with an explicit deny in a resource-based policy"),
        ([{}], {"Effect": "Deny", "Principal": ROOT}, "with an explicit deny in a resource-based policy"),
        ([{}], {"Effect": "Deny", "Principal": {"Service": "ec2.amazonaws.com"}}, ""),
    ],
)
def test_one_account(identity: list[dict[str, Any]], resource: dict[str, Any] | None, expected: str) -> None:
    """IAM User Guide, "Policy evaluation for requests within a single account"."""
    own = policy(resource) if resource else None
    assert reason(asked(), policy(*identity), resource=own) == expected


@pytest.mark.parametrize(
    ("identity", "key_policy", "allowed"),
    [
        # "The key policy must allow the account before IAM policies are effective."
        ([{}], {"Principal": ROOT}, True),
        ([], {"Principal": ROOT}, False),
        ([{}], {"Principal": {"Service": "cloudwatch.amazonaws.com"}}, False),
        ([], {"Principal": {"AWS": ROLE}}, True),
    ],
)
def test_keys_let_the_account_in(identity: list[dict[str, Any]], key_policy: dict[str, Any], allowed: bool) -> None:
    """AWS KMS Developer Guide, "Key policies in AWS KMS"."""
    request = asked("kms:Decrypt", KEY)
    assert (reason(request, policy(*identity), resource=policy(key_policy)) == "") is allowed


def test_roles_are_assumed_by_whom_they_trust() -> None:
    """IAM User Guide, "How to use trust policies": a service needs the trust policy alone, and its conditions."""
    trust = policy(
        {
            "Action": "sts:AssumeRole",
            "Principal": {"Service": "states.amazonaws.com"},
            "Condition": {"ArnLike": {"aws:SourceArn": f"arn:aws:states:eu-west-1:{ACCOUNT}:stateMachine:*"}},
        }
    )
    states = Principal(arn="", account=ACCOUNT, service="states.amazonaws.com")
    machine = {"aws_sourcearn": f"arn:aws:states:eu-west-1:{ACCOUNT}:stateMachine:m"}
    assert reason(asked("sts:AssumeRole", ROLE, states, **machine), resource=trust) == ""
    assert reason(asked("sts:AssumeRole", ROLE, states), resource=trust) != ""
    assert reason(asked("sts:AssumeRole", ROLE, NODE, **machine), policy({}), resource=trust) != ""


def test_sessions_and_endpoints_must_allow_too() -> None:
    """IAM User Guide, "Policies for sessions"; AWS PrivateLink Guide, "Control access using endpoint policies"."""
    one, other = policy({"Resource": f"{BUCKET}/key"}), policy({"Resource": f"{BUCKET}/other"})
    everyone = policy({"Principal": "*", "Resource": f"{BUCKET}/other"})
    assert reason(asked(), policy({}), session=one) == ""
    assert reason(asked(), policy({}), session=other) == "because no session policy allows the s3:GetObject action"
    assert reason(asked(), policy({}), endpoint=everyone) == (
        "because no VPC endpoint policy allows the s3:GetObject action"
    )
    # A resource that allows the session by name is not limited by the session's policy; one that allows its role is.
    named, role = policy({"Principal": {"AWS": NODE.arn}}), policy({"Principal": {"AWS": ROLE}})
    assert reason(asked(), resource=named, session=other) == ""
    assert reason(asked(), resource=role, session=other) != ""


@pytest.mark.parametrize(
    ("condition", "context", "holds"),
    [
        ({"StringEquals": {"s3:prefix": ["a", "b"]}}, {"s3:prefix": ["b"]}, True),
        ({"StringEquals": {"s3:prefix": "a*"}}, {"s3:prefix": ["ab"]}, False),
        ({"StringLike": {"S3:Prefix": "a*"}}, {"s3:prefix": ["ab"]}, True),
        # "If the key is not present, the values do not match; a negated operator then holds."
        ({"StringLike": {"s3:prefix": "*"}}, {}, False),
        ({"StringNotEquals": {"s3:prefix": "a"}}, {}, True),
        ({"StringNotEquals": {"s3:prefix": ["a", "b"]}}, {"s3:prefix": ["b"]}, False),
        ({"StringEqualsIfExists": {"s3:prefix": "a"}}, {}, True),
        ({"StringEqualsIfExists": {"s3:prefix": "a"}}, {"s3:prefix": ["b"]}, False),
        ({"Null": {"s3:if-none-match": "true"}}, {}, True),
        ({"Null": {"s3:if-none-match": "true"}}, {"s3:if-none-match": ["*"]}, False),
        ({"Bool": {"aws:SecureTransport": False}}, {"aws:securetransport": ["false"]}, True),
        ({"NumericLessThanEquals": {"s3:max-keys": "10"}}, {"s3:max-keys": ["9.5"]}, True),
        ({"NumericLessThanEquals": {"s3:max-keys": "10"}}, {"s3:max-keys": ["10"]}, True),
        ({"NumericLessThan": {"s3:max-keys": 10}}, {"s3:max-keys": ["10"]}, False),
        ({"NumericGreaterThan": {"s3:max-keys": "9"}}, {"s3:max-keys": ["10"]}, True),
        ({"NumericEquals": {"s3:max-keys": ["8", "10.0"]}}, {"s3:max-keys": ["10"]}, True),
        ({"NumericNotEquals": {"s3:max-keys": "10"}}, {"s3:max-keys": ["10"]}, False),
        ({"NumericLessThan": {"s3:max-keys": "10"}}, {"s3:max-keys": ["few"]}, False),
        ({"NumericLessThanEquals": {"s3:max-keys": "10"}}, {}, False),
        ({"ArnEquals": {"aws:SourceArn": "arn:aws:x:r:a:m/*"}}, {"aws:sourcearn": ["arn:aws:x:r:a:m/1"]}, True),
        # Every operator of a statement, and every key of an operator, must hold.
        (
            {"StringEquals": {"s3:prefix": "a", "aws:ResourceAccount": "1"}},
            {"s3:prefix": ["a"], "aws:resourceaccount": ["2"]},
            False,
        ),
        # "ForAllValues: true also when the request has no such key." "ForAnyValue: then false."
        ({"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": "a"}}, {}, True),
        ({"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": "a"}}, {"dynamodb:leadingkeys": ["a", "b"]}, False),
        ({"ForAnyValue:StringEquals": {"dynamodb:LeadingKeys": "a"}}, {"dynamodb:leadingkeys": ["a", "b"]}, True),
        ({"ForAnyValue:StringEquals": {"dynamodb:LeadingKeys": "a"}}, {}, False),
        # A variable is the request's value, in which nothing is a wildcard.
        ({"StringLike": {"s3:prefix": "${aws:userid}/*"}}, {"s3:prefix": ["me/x"], "aws:userid": ["me"]}, True),
        ({"StringLike": {"s3:prefix": "${aws:userid}/*"}}, {"s3:prefix": ["you/x"], "aws:userid": ["*"]}, False),
        ({"StringEquals": {"s3:prefix": "${aws:userid}"}}, {"s3:prefix": ["*"], "aws:userid": ["*"]}, True),
    ],
)
def test_conditions(condition: Any, context: dict[str, list[str]], holds: bool) -> None:
    """IAM User Guide, "Condition operators", "Set operators for multivalued context keys", "Variables and tags"."""
    assert all(each.holds(context) for each in read_conditions(condition, where="here")) is holds


@pytest.mark.parametrize(
    ("pattern", "arn", "matches"),
    [
        ("*", "arn:aws:s3:::b", True),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::b/x/y:z", True),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::b", False),
        ("arn:aws:s3:::b/?", "arn:aws:s3:::b/x", True),
        ("arn:aws:s3:::B", "arn:aws:s3:::b", False),
        # "A wildcard stays within its part of the ARN."
        ("arn:aws:states:*:execution:m", "arn:aws:states:r:1:execution:m", False),
        ("arn:aws:logs:r:1:log-group:g:*", "arn:aws:logs:r:1:log-group:g:log-stream:s", True),
        ("arn:aws:logs:r:1:log-group:g", "arn:aws:logs:r:1:log-group:g:log-stream:s", False),
    ],
)
def test_resources(pattern: str, arn: str, matches: bool) -> None:
    """IAM User Guide, "IAM JSON policy elements: Resource"."""
    assert arn_matches(pattern, arn) is matches


def test_not_action_and_not_resource_mean_all_others() -> None:
    """IAM User Guide, "IAM JSON policy elements: NotAction" and "NotResource"."""
    others = read_policy(
        "p", json.dumps({"Statement": {"Effect": "Allow", "NotAction": "s3:Get*", "NotResource": f"{BUCKET}/no"}})
    )
    assert reason(asked("s3:PutObject"), others) == ""
    assert reason(asked("S3:getobject"), others) != ""
    assert reason(asked("s3:PutObject", f"{BUCKET}/no"), others) != ""


def test_actions_have_no_case() -> None:
    """IAM User Guide, "IAM JSON policy elements: Action": "the prefix and the action name are case insensitive"."""
    assert reason(asked("dynamodb:PutItem"), policy({"Action": "dynamodb:putItem"})) == ""


def test_text_of_any_kind_matches_itself() -> None:
    """A pattern's other characters stand for themselves."""
    assert text_matches("a.b[c]*", "a.b[c]\n")
    assert not text_matches("a.b", "axb")
    assert substitute("${*}${?}", {}) == "\0*\0?"


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ({"NotPrincipal": "*"}, "the element NotPrincipal"),
        ({"Principal": {"Federated": "x"}}, "a principal of the type Federated"),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, "the condition operator IpAddress"),
        ({"Condition": {"StringEquals": {"aws:MadeUp": "1"}}}, "the condition key aws:MadeUp"),
        ({"Condition": {"StringEquals": {"dynamodb:LeadingKeys": "1"}}}, "needs ForAllValues or ForAnyValue"),
        ({"Effect": "Maybe"}, "Effect must be Allow or Deny"),
    ],
)
def test_fails_on_what_is_not_evaluated(statement: dict[str, Any], what: str) -> None:
    """A policy with something that is not evaluated is an error that names it, the policy and the statement."""
    with pytest.raises(UnsupportedPolicyError, match="unread, statement 0: ") as refused:
        policy(statement, name="unread")
    assert what in str(refused.value)
