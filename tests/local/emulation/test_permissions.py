"""Permissions in the local cloud, against AWS's documented behaviour."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

ACCOUNT = "123456789012"
TOPIC = f"arn:aws:sns:eu-west-1:{ACCOUNT}:topic"
TRUST_ACCOUNT = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}

MakeRole = Callable[..., str]


@pytest.fixture
def make_role(cloud: Any) -> MakeRole:
    """Make a role of the statements given, which trusts the account."""

    def make(*statements: dict[str, Any], trusted: Any = TRUST_ACCOUNT) -> str:
        iam, name = cloud.client("iam"), f"role-{uuid.uuid4()}"
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": trusted}
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document(*statements))
        return f"arn:aws:iam::{ACCOUNT}:role/{name}"

    return make


def document(*statements: dict[str, Any]) -> str:
    """Write a policy."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(*actions: str, on: str = "*", **condition: Any) -> dict[str, Any]:
    """Write a statement."""
    return {"Effect": "Allow", "Action": list(actions), "Resource": on, "Condition": condition}


def error_of(call: Callable[..., Any], **arguments: Any) -> tuple[str, int, str]:
    """Call, and give code, status and message of the error."""
    with pytest.raises(ClientError) as failed:
        call(**arguments)
    answer: Any = failed.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


@pytest.mark.parametrize(
    ("service", "operation", "arguments", "code", "status"),
    [
        ("dynamodb", "GetItem", {"TableName": "t", "Key": {"pk": {"S": "1"}}}, "AccessDeniedException", 400),
        ("s3", "GetObject", {"Bucket": "b", "Key": "k"}, "AccessDenied", 403),
        ("autoscaling", "DescribeAutoScalingGroups", {}, "AccessDenied", 403),
        ("ec2", "DescribeInstances", {}, "UnauthorizedOperation", 403),
        ("cloudformation", "DescribeStacks", {}, "AccessDenied", 403),
        ("logs", "CreateLogStream", {"logGroupName": "g", "logStreamName": "s"}, "AccessDeniedException", 400),
        (
            "sns",
            "Publish",
            {"TopicArn": f"arn:aws:sns:eu-west-1:{ACCOUNT}:t", "Message": "m"},
            "AuthorizationError",
            403,
        ),
        ("cloudwatch", "PutMetricData", {"Namespace": "n", "MetricData": []}, "AccessDenied", 403),
    ],
)
def test_denied_requests_fail_as_their_services_say(
    cloud: Any, make_role: MakeRole, service: str, operation: str, arguments: Any, code: str, status: int
) -> None:
    """IAM User Guide, "Troubleshoot access denied error messages": who, which action, on what, and why not."""
    # GIVEN
    client = cloud.client(service, role_arn=make_role(allow("iam:Nothing")))
    action = f"{service}:{operation}"
    # WHEN
    found_code, found_status, message = error_of(getattr(client, xform_name(operation)), **arguments)
    # THEN
    assert (found_code, found_status) == (code, status)
    assert ":assumed-role/role-" in message
    assert f" is not authorized to perform: {action}" in message
    assert message.endswith(f"because no identity-based policy allows the {action} action")


def test_unknown_operations_are_no_ones(cloud: Any, make_role: MakeRole) -> None:
    """A role that may do everything may not do what nobody has written down the permissions of."""
    sqs = cloud.client("sqs", role_arn=make_role(allow("*")))
    code, _, message = error_of(sqs.list_queues)
    assert code == "NotDecidedByTheLocalCloud"
    assert "sqs.ListQueues" in message


def test_items_are_allowed_by_key_and_attribute(cloud: Any, make_role: MakeRole) -> None:
    """DynamoDB Developer Guide, "Using IAM policy conditions for fine-grained access control"; transactions by item."""
    # GIVEN
    cloud.client("dynamodb").create_table(
        TableName="fine",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    condition = {"dynamodb:LeadingKeys": ["mine"], "dynamodb:Attributes": ["pk", "expires_at"]}
    table = f"arn:aws:dynamodb:eu-west-1:{ACCOUNT}:table/fine"
    role = make_role(allow("dynamodb:UpdateItem", on=table, **{"ForAllValues:StringEquals": condition}))
    dynamodb = cloud.client("dynamodb", role_arn=role)
    update = {
        "TableName": "fine",
        "Key": {"pk": {"S": "mine"}},
        "UpdateExpression": "SET expires_at = :at",
        "ExpressionAttributeValues": {":at": {"N": "1"}},
    }
    # WHEN, THEN
    dynamodb.update_item(**update)
    dynamodb.transact_write_items(TransactItems=[{"Update": update}])
    forbidden = [
        {**update, "Key": {"pk": {"S": "yours"}}},
        {**update, "UpdateExpression": "SET owner = :at"},
        {**update, "UpdateExpression": "SET #o = :at", "ExpressionAttributeNames": {"#o": "owner"}},
        {**update, "ConditionExpression": "attribute_exists(owner)"},
    ]
    for one in forbidden:
        assert error_of(dynamodb.update_item, **one)[0] == "AccessDeniedException"
        transaction = [{"Update": update}, {"Update": one}]
        assert error_of(dynamodb.transact_write_items, TransactItems=transaction)[0] == "AccessDeniedException"


def test_missing_objects_are_forbidden_to_whoever_may_not_list(cloud: Any, make_role: MakeRole) -> None:
    """S3 API Reference, GetObject: without s3:ListBucket S3 says 403 for an object that does not exist, else 404."""
    cloud.client("s3").create_bucket(Bucket="unlisted", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    get, everything = allow("s3:GetObject", on="arn:aws:s3:::unlisted/*"), allow("s3:ListBucket")
    reader = cloud.client("s3", role_arn=make_role(get))
    lister = cloud.client("s3", role_arn=make_role(get, everything))
    assert error_of(reader.get_object, Bucket="unlisted", Key="none")[:2] == ("AccessDenied", 403)
    assert error_of(lister.get_object, Bucket="unlisted", Key="none")[:2] == ("NoSuchKey", 404)


def test_resource_policies_are_made(cloud: Any, stacks: Any) -> None:
    """A template's bucket policy is on the bucket: what it denies is denied to the administrator, too."""
    # GIVEN
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": "arn:aws:s3:::guarded/*",
        "Condition": {"Null": {"s3:if-none-match": "true"}},
    }
    stacks.create(
        {
            "Resources": {
                "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "guarded"}},
                "Policy": {
                    "Type": "AWS::S3::BucketPolicy",
                    "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": json.loads(document(deny))},
                },
            }
        }
    )
    s3 = cloud.client("s3")
    # WHEN, THEN
    assert error_of(s3.put_object, Bucket="guarded", Key="k")[:2] == ("AccessDenied", 403)
    s3.put_object(Bucket="guarded", Key="k", IfNoneMatch="*")
    s3.delete_object(Bucket="guarded", Key="k")


def test_bucket_policies_are_evaluated_once(cloud: Any) -> None:
    """A denial whose condition does not hold denies nothing."""
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="tls", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::tls/*"}
    s3.put_bucket_policy(
        Bucket="tls", Policy=document({**deny, "Condition": {"Bool": {"aws:SecureTransport": "false"}}})
    )
    s3.put_object(Bucket="tls", Key="k", Body=b"text")
    assert s3.get_object(Bucket="tls", Key="k")["Body"].read() == b"text"
    s3.delete_object(Bucket="tls", Key="k")


def test_policies_are_understood(stacks: Any) -> None:
    """A template with a condition that is not evaluated is refused, naming resource and operator."""
    statement = {**allow("s3:GetObject"), "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}
    policy = {"PolicyName": "p", "Users": [], "PolicyDocument": json.loads(document(statement))}
    template = {"Resources": {"Narrow": {"Type": "AWS::IAM::Policy", "Properties": policy}}}
    # WHEN
    _, _, message = error_of(stacks.create, template=template)
    # THEN
    assert "Narrow, statement 0: the condition operator IpAddress is not supported" in message


def test_log_groups_stand_for_their_streams(stacks: Any) -> None:
    """CloudFormation Template Reference, AWS::Logs::LogGroup, return values: the ARN ends with `:*`."""
    made = stacks.create(
        {
            "Resources": {"Group": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "of-streams"}}},
            "Outputs": {"Arn": {"Value": {"Fn::GetAtt": ["Group", "Arn"]}}},
        }
    )
    assert made["outputs"]["Arn"] == f"arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:of-streams:*"


def test_roles_of_state_machines_are_checked(cloud: Any, make_role: MakeRole) -> None:
    """A state machine whose role does not trust Step Functions is refused; Step Functions API, CreateStateMachine."""
    definition = json.dumps({"StartAt": "Only", "States": {"Only": {"Type": "Succeed"}}})
    code, _, message = error_of(
        cloud.client("stepfunctions").create_state_machine,
        name="untrusted",
        definition=definition,
        roleArn=make_role(allow("*")),
    )
    assert code == "AccessDeniedException"
    assert message.startswith("Neither the global service principal states.amazonaws.com, nor")


def test_waiting_for_executions_needs_a_rule(cloud: Any, make_role: MakeRole) -> None:
    """A role without the permissions for Step Functions' rule is refused at creation; with them it is taken."""
    # GIVEN a state that waits for executions
    account = f"eu-west-1:{ACCOUNT}"
    rule = f"arn:aws:events:{account}:rule/StepFunctionsGetEventsForStepFunctionsExecutionRule"
    nested = {"Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2", "End": True}
    nested["Arguments"] = {"StateMachineArn": f"arn:aws:states:{account}:stateMachine:x"}  # type: ignore[assignment]
    definition = json.dumps({"QueryLanguage": "JSONata", "StartAt": "Run", "States": {"Run": nested}})
    trusted = {"Service": "states.amazonaws.com"}
    few, enough = (
        make_role(allow(*actions, on=rule), trusted=trusted)
        for actions in (["events:PutRule"], ["events:PutRule", "events:PutTargets", "events:DescribeRule"])
    )
    create = cloud.client("stepfunctions").create_state_machine

    # WHEN
    code, _, message = error_of(create, name="may-not-wait", definition=definition, roleArn=few)
    created = create(name="may-wait", definition=definition, roleArn=enough)

    # THEN
    assert (code, message) == ("AccessDeniedException", f"'{few}' is not authorized to create managed-rule.")
    assert created["stateMachineArn"].endswith(":may-wait")


def test_state_machines_act_as_their_role(machines: Any, make_role: MakeRole) -> None:
    """A call that the machine's role may not make fails the task with the service's exception, and its message."""
    # GIVEN
    role = make_role(allow("s3:GetObject"), trusted={"Service": "states.amazonaws.com"})
    look = {"Type": "Task", "Resource": "arn:aws:states:::aws-sdk:dynamodb:getItem", "End": True}
    look["Arguments"] = {"TableName": "tokens", "Key": {"pk": {"S": "x"}}}  # type: ignore[assignment]
    machine = machines.api.create_state_machine(
        name=f"machine-{uuid.uuid4()}",
        definition=json.dumps({"QueryLanguage": "JSONata", "StartAt": "Look", "States": {"Look": look}}),
        roleArn=role,
    )["stateMachineArn"]
    # WHEN
    ended = machines.finish(machines.api.start_execution(stateMachineArn=machine)["executionArn"])
    # THEN the name is the Java SDK's for what DynamoDB's model does not name
    assert (ended["status"], ended["error"]) == ("FAILED", "DynamoDb.DynamoDbException")
    assert "is not authorized to perform: dynamodb:GetItem on resource: arn:aws:dynamodb:" in ended["cause"]


def test_roles_are_assumed_only_if_they_trust_the_account(cloud: Any, make_role: MakeRole) -> None:
    """AssumeRole asks the role's trust policy, of the administrator too."""
    role = make_role(allow("*"), trusted={"Service": "ec2.amazonaws.com"})
    with pytest.raises(ClientError, match="not authorized to perform: sts:AssumeRole"):
        cloud.client("s3", role_arn=role)


def test_statements_know_who_used_them(cloud: Any, make_role: MakeRole) -> None:
    """The record has each pattern of a statement with those whom it allowed something, beside those of any topic."""
    cloud.client("sns").create_topic(Name="with-the-policy-that-every-topic-has")
    role = make_role(allow("ec2:Describe*", "ec2:RunInstances"))
    cloud.client("ec2", role_arn=role).describe_instances()
    name = role.rpartition("/")[2]
    (statement,) = [item for item in cloud.permissions()["statements"] if item["policy"] == f"{name}/own"]
    assert statement["actions"] == {"ec2:Describe*": [f"{name}: ec2.DescribeInstances"], "ec2:RunInstances": []}
