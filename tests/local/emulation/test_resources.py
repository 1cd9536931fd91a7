"""Single CloudFormation resources, against AWS's documented behaviour."""

from __future__ import annotations

import json
from typing import Any

ROLE = "arn:aws:iam::123456789012:role/any"
ECHO = {
    "QueryLanguage": "JSONata",
    "StartAt": "Echo",
    "States": {"Echo": {"Type": "Pass", "Output": "${Word}", "End": True}},
}


def test_state_machines_are_executable(cloud: Any, stacks: Any, machines: Any) -> None:
    """A state machine takes its definition from S3 with its substitutions, and runs."""
    # GIVEN
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="definitions", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="definitions", Key="echo.json", Body=json.dumps(ECHO))
    machine = {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {
            "RoleArn": ROLE,
            "DefinitionS3Location": {"Bucket": "definitions", "Key": "echo.json"},
            "DefinitionSubstitutions": {"Word": "substituted"},
            "TracingConfiguration": {"Enabled": True},
        },
    }
    outputs = {"Ref": {"Value": {"Ref": "Machine"}}, "Arn": {"Value": {"Fn::GetAtt": ["Machine", "Arn"]}}}

    # WHEN
    stack = stacks.create({"Resources": {"Machine": machine}, "Outputs": outputs})
    arn = stack["outputs"]["Ref"]
    ended = machines.finish(machines.api.start_execution(stateMachineArn=arn)["executionArn"])

    # THEN
    assert stack["outputs"]["Arn"] == arn
    assert json.loads(ended["output"]) == "substituted"
    assert machines.api.describe_state_machine(stateMachineArn=arn)["tracingConfiguration"] == {"enabled": True}


def test_state_machines_are_updated(stacks: Any, machines: Any) -> None:
    """A new definition replaces the old one under the same ARN."""

    # GIVEN
    def template(word: str) -> dict[str, Any]:
        properties = {"RoleArn": ROLE, "DefinitionString": json.dumps(ECHO).replace("${Word}", word)}
        machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}
        return {"Resources": {"Machine": machine}, "Outputs": {"Arn": {"Value": {"Ref": "Machine"}}}}

    stack = stacks.create(template("before"))
    arn = stack["outputs"]["Arn"]

    # WHEN
    stacks.api.update_stack(StackName=stack["StackName"], TemplateBody=json.dumps(template("after")))
    ended = machines.finish(machines.api.start_execution(stateMachineArn=arn)["executionArn"])

    # THEN
    assert stacks.describe(stack["StackName"])["outputs"] == {"Arn": arn}
    assert json.loads(ended["output"]) == "after"


def test_buckets_are_versioned(cloud: Any, stacks: Any) -> None:
    """A bucket has the versioning of its template."""
    # GIVEN
    bucket = {"Type": "AWS::S3::Bucket", "Properties": {"VersioningConfiguration": {"Status": "Enabled"}}}

    # WHEN
    stack = stacks.create({"Resources": {"Bucket": bucket}, "Outputs": {"Name": {"Value": {"Ref": "Bucket"}}}})

    # THEN
    assert cloud.client("s3").get_bucket_versioning(Bucket=stack["outputs"]["Name"])["Status"] == "Enabled"


def test_route_tables_are_deleted(cloud: Any, stacks: Any) -> None:
    """A stack with a network can be deleted."""
    # GIVEN
    vpc = {"Ref": "Vpc"}
    template = {
        "Resources": {
            "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.9.0.0/16"}},
            "Subnet": {"Type": "AWS::EC2::Subnet", "Properties": {"VpcId": vpc, "CidrBlock": "10.9.0.0/24"}},
            "Routes": {"Type": "AWS::EC2::RouteTable", "Properties": {"VpcId": vpc}},
            "Association": {
                "Type": "AWS::EC2::SubnetRouteTableAssociation",
                "Properties": {"RouteTableId": {"Ref": "Routes"}, "SubnetId": {"Ref": "Subnet"}},
            },
        },
        "Outputs": {"Vpc": {"Value": vpc}},
    }
    stack = stacks.create(template)

    # WHEN
    stacks.api.delete_stack(StackName=stack["StackName"])

    # THEN
    left = [item["VpcId"] for item in cloud.client("ec2").describe_vpcs()["Vpcs"]]
    assert stack["outputs"]["Vpc"] not in left


def test_subscriptions_are_created(cloud: Any, stacks: Any) -> None:
    """A subscription of a template receives what its topic does, until its stack is deleted."""
    # GIVEN
    resources = {
        "Queue": {"Type": "AWS::SQS::Queue"},
        "Topic": {
            "Type": "AWS::SNS::Topic",
            "Properties": {"DisplayName": "alarms", "KmsMasterKeyId": "alias/aws/sns"},
        },
        "Subscription": {
            "Type": "AWS::SNS::Subscription",
            "Properties": {
                "TopicArn": {"Ref": "Topic"},
                "Protocol": "sqs",
                "Endpoint": {"Fn::GetAtt": ["Queue", "Arn"]},
            },
        },
        "Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": {"AlarmActions": [{"Ref": "Topic"}]}},
    }
    outputs = {name: {"Value": {"Ref": name}} for name in ("Topic", "Queue", "Subscription")}

    # WHEN
    stack = stacks.create({"Resources": resources, "Outputs": outputs})

    # THEN
    sns, made = cloud.client("sns"), stack["outputs"]
    sns.publish(TopicArn=made["Topic"], Message="hello")
    (message,) = cloud.client("sqs").receive_message(QueueUrl=made["Queue"])["Messages"]
    assert json.loads(message["Body"])["Message"] == "hello"
    listed = sns.list_subscriptions_by_topic(TopicArn=made["Topic"])["Subscriptions"]
    assert [item["SubscriptionArn"] for item in listed] == [made["Subscription"]]

    # WHEN
    stacks.api.delete_stack(StackName=stack["StackName"])

    # THEN
    assert made["Subscription"] not in [item["SubscriptionArn"] for item in sns.list_subscriptions()["Subscriptions"]]
