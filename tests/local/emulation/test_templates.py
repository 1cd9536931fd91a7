"""CloudFormation templates and stacks, against AWS's documented behaviour."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

BUCKET: dict[str, Any] = {"Type": "AWS::S3::Bucket"}


@pytest.mark.parametrize("kind", ["AWS::Nothing::OfTheKind", "Custom::Thing", "AWS::CloudFormation::CustomResource"])
def test_unknown_types_are_errors(stacks: Any, kind: str) -> None:
    """A template with a type that cannot be created is refused, naming type and resource."""
    # GIVEN
    template = {"Resources": {"Bucket": BUCKET, "Thing": {"Type": kind, "Properties": {"ServiceToken": "arn:x"}}}}

    # WHEN
    with pytest.raises(ClientError) as refused:
        stacks.create(template)

    # THEN
    message = refused.value.response["Error"]["Message"]
    assert refused.value.response["Error"]["Code"] == "ValidationError"
    assert message.startswith(f"Template format error: Unrecognized resource types: [{kind}]")
    assert "Thing" in message


def test_accepted_types_can_be_referred_to(stacks: Any) -> None:
    """A type that is accepted without effect still has a name and an ARN for the rest of the template."""
    # GIVEN
    template = {
        "Resources": {"Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": {}}},
        "Outputs": {"Name": {"Value": {"Ref": "Alarm"}}, "Arn": {"Value": {"Fn::GetAtt": ["Alarm", "Arn"]}}},
    }

    # WHEN
    stack = stacks.create(template)

    # THEN
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    assert stack["outputs"]["Arn"] == f"arn:aws:cloudwatch:eu-west-1:123456789012:alarm:{stack['outputs']['Name']}"


def test_unknown_attributes_are_errors(stacks: Any) -> None:
    """Fn::GetAtt of an attribute that the type does not have fails the stack."""
    # GIVEN
    template = {
        "Resources": {
            "Bucket": BUCKET,
            "Topic": {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": {"Fn::GetAtt": ["Bucket", "Nonsense"]}}},
        }
    }

    # WHEN
    stack = stacks.create(template)

    # THEN
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "resource Bucket does not support attribute type Nonsense in Fn::GetAtt" in stack["StackStatusReason"]


def test_zones_are_those_of_the_region(stacks: Any) -> None:
    """Fn::GetAZs without a region means the stack's own."""
    # GIVEN
    zone = {"Fn::Select": [0, {"Fn::GetAZs": ""}]}
    template = {"Resources": {"Bucket": BUCKET}, "Outputs": {"Zone": {"Value": zone}}}

    # WHEN
    stack = stacks.create(template)

    # THEN
    assert stack["outputs"] == {"Zone": "eu-west-1a"}


def test_failed_stacks_roll_back(cloud: Any, stacks: Any) -> None:
    """A stack whose resource fails is rolled back; its reason and its events name the resource."""
    # GIVEN
    machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": {"DefinitionString": "{}", "RoleArn": "r"}}
    bucket = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "half-made"}}

    # WHEN
    stack = stacks.create({"Resources": {"Bucket": bucket, "Machine": machine}})

    # THEN
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert stack["StackStatusReason"].startswith("Machine (AWS::StepFunctions::StateMachine): ")
    events = stacks.api.describe_stack_events(StackName=stack["StackName"])["StackEvents"]
    failed = [event["LogicalResourceId"] for event in events if event["ResourceStatus"] == "CREATE_FAILED"]
    assert failed == ["Machine"]
    assert "half-made" not in [item["Name"] for item in cloud.client("s3").list_buckets()["Buckets"]]


def test_changes_are_made_or_refused(stacks: Any) -> None:
    """A change of a resource that the local cloud cannot make is refused, naming the resource."""

    # GIVEN
    def template(cidr: str) -> dict[str, Any]:
        return {"Resources": {"Gateway": {"Type": "AWS::EC2::InternetGateway", "Properties": {"Tags": [tag(cidr)]}}}}

    def tag(value: str) -> dict[str, str]:
        return {"Key": "k", "Value": value}

    stack = stacks.create(template("before"))

    # WHEN, THEN
    with pytest.raises(ClientError, match=r"Gateway \(AWS::EC2::InternetGateway\): the local cloud cannot change"):
        stacks.api.update_stack(StackName=stack["StackName"], TemplateBody=json.dumps(template("after")))


def test_stacks_are_deleted_in_order(stacks: Any) -> None:
    """CloudFormation User Guide, DependsOn attribute: what depends on a resource is deleted before it."""
    # GIVEN ten chances to take a bucket away before its policy
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObjectAcl", "Resource": "*"}
    resources: dict[str, Any] = {}
    for index in range(10):
        resources[f"Bucket{index}"] = {"Type": "AWS::S3::Bucket"}
        document = {"Version": "2012-10-17", "Statement": [deny]}
        properties = {"Bucket": {"Ref": f"Bucket{index}"}, "PolicyDocument": document}
        resources[f"Policy{index}"] = {"Type": "AWS::S3::BucketPolicy", "Properties": properties}
    stack = stacks.create({"Resources": resources})

    # WHEN
    stacks.api.delete_stack(StackName=stack["StackName"])

    # THEN
    assert stacks.describe(stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"


def test_deleted_stacks_stay_deleted(cloud: Any, stacks: Any) -> None:
    """Describing a deleted stack finds no outputs, and makes nothing."""
    # GIVEN
    bucket = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "deleted-with-its-stack"}}
    stack = stacks.create({"Resources": {"Bucket": bucket}, "Outputs": {"Name": {"Value": {"Ref": "Bucket"}}}})

    # WHEN
    stacks.api.delete_stack(StackName=stack["StackName"])
    described = stacks.describe(stack["StackId"])

    # THEN
    assert (described["StackStatus"], described["outputs"]) == ("DELETE_COMPLETE", {})
    assert "deleted-with-its-stack" not in [item["Name"] for item in cloud.client("s3").list_buckets()["Buckets"]]


def test_updates_keep_default_parameters(stacks: Any) -> None:
    """An update that keeps the previous value of a parameter keeps its default too."""
    # GIVEN
    template = {
        "Parameters": {"Word": {"Type": "String", "Default": "default"}},
        "Resources": {"Bucket": BUCKET},
        "Outputs": {"Word": {"Value": {"Ref": "Word"}}},
    }
    stack = stacks.create(template)
    template["Outputs"] |= {"More": {"Value": "more"}}

    # WHEN
    stacks.api.update_stack(
        StackName=stack["StackName"],
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": "Word", "UsePreviousValue": True}],
    )

    # THEN
    assert stacks.describe(stack["StackName"])["outputs"] == {"Word": "default", "More": "more"}


def test_ssm_parameters_are_resolved(cloud: Any, stacks: Any) -> None:
    """A parameter's value comes from Parameter Store, AWS's public ones included; an unknown name is refused."""

    # GIVEN
    def template(name: str) -> dict[str, Any]:
        parameter = {"Type": "AWS::SSM::Parameter::Value<String>", "Default": name}
        outputs = {"Value": {"Value": {"Ref": "Stored"}}}
        return {"Parameters": {"Stored": parameter}, "Resources": {"Bucket": BUCKET}, "Outputs": outputs}

    cloud.client("ssm").put_parameter(Name="/mine", Value="stored", Type="String")

    # WHEN
    mine = stacks.create(template("/mine"))
    public = stacks.create(template("/aws/service/deeplearning/ami/any/ami-id"))
    with pytest.raises(ClientError, match=r"Unable to fetch parameters \[/missing\] from parameter store"):
        stacks.create(template("/missing"))

    # THEN
    assert mine["outputs"] == {"Value": "stored"}
    assert public["outputs"]["Value"].startswith("ami-")


def test_kept_parameters_keep_their_resolved_value(cloud: Any, stacks: Any) -> None:
    """A change set that keeps the previous value of an SSM parameter keeps what was resolved."""
    # GIVEN
    cloud.client("ssm").put_parameter(Name="/kept", Value="first", Type="String")
    template = {
        "Parameters": {"Stored": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/kept"}},
        "Resources": {"Bucket": BUCKET},
        "Outputs": {"Value": {"Value": {"Ref": "Stored"}}},
    }
    stack = stacks.create(template)

    # WHEN
    stacks.api.create_change_set(
        StackName=stack["StackName"],
        ChangeSetName="change",
        ChangeSetType="UPDATE",
        TemplateBody=json.dumps({**template, "Resources": {"Bucket": BUCKET, "Other": BUCKET}}),
        Parameters=[{"ParameterKey": "Stored", "UsePreviousValue": True}],
    )
    stacks.api.execute_change_set(StackName=stack["StackName"], ChangeSetName="change")

    # THEN
    assert stacks.describe(stack["StackName"])["outputs"] == {"Value": "first"}
