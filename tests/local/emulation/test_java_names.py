"""The names of the AWS SDK for Java, against those that published state machines use and the SDK has."""

from __future__ import annotations

import pytest

from horovod_client.aws import java_names


@pytest.mark.parametrize(
    ("api", "java"),
    [
        ("VPCZoneIdentifier", "VpcZoneIdentifier"),
        ("DBInstanceIdentifier", "DbInstanceIdentifier"),
        ("DBName", "DbName"),
        ("executionArn", "ExecutionArn"),
        ("AutoScalingGroupARN", "AutoScalingGroupARN"),
        ("ETag", "ETag"),
        ("BOOL", "Bool"),
        ("S", "S"),
        ("ARN", "Arn"),
        ("MD5OfBody", "Md5OfBody"),
        ("Equals", "EqualsValue"),
        ("Default", "DefaultValue"),
    ],
)
def test_members_are_named_as_in_java(api: str, java: str) -> None:
    """The leading run of capitals is lowered but for its last before a small letter; the first letter is raised."""
    # THEN
    assert java_names.member_name(api) == java


@pytest.mark.parametrize(
    ("shape", "java"),
    [
        ("DBInstanceNotFoundFault", "DbInstanceNotFoundException"),
        ("NoSuchKey", "NoSuchKeyException"),
        ("ConditionalCheckFailedException", "ConditionalCheckFailedException"),
        ("ScalingActivityInProgressFault", "ScalingActivityInProgressException"),
        ("InternalServerError", "InternalServerErrorException"),
    ],
)
def test_errors_are_named_as_in_java(shape: str, java: str) -> None:
    """Errors have the names of the SDK's classes, which all end in Exception."""
    # THEN
    assert java_names.exception_name(shape) == java


@pytest.mark.parametrize(
    ("service", "java"),
    [
        ("DynamoDB", "DynamoDb"),
        ("SFN", "Sfn"),
        ("Auto Scaling", "AutoScaling"),
        ("EC2", "Ec2"),
        ("S3", "S3"),
        ("CloudWatch Logs", "CloudWatchLogs"),
        ("ACM PCA", "AcmPca"),
    ],
)
def test_services_are_named_as_in_java(service: str, java: str) -> None:
    """Services have the names of the SDK's clients."""
    # THEN
    assert java_names.service_name(service) == java


def test_renaming_goes_both_ways() -> None:
    """What Step Functions takes becomes what the API takes, through structures, lists and maps, and back."""
    # GIVEN
    operation = java_names.operation_model("dynamodb", "transactWriteItems")
    assert operation is not None
    shape = operation.input_shape
    item = {"a": {"M": {"b": {"Bool": True}}}, "c": {"L": [{"Nul": True}, {"Ns": ["1"]}]}}
    arguments = {"TransactItems": [{"Put": {"TableName": "t", "Item": item}}]}

    # WHEN
    sent = java_names.in_the_api(arguments, shape)

    # THEN
    assert sent["TransactItems"][0]["Put"]["Item"] == {
        "a": {"M": {"b": {"BOOL": True}}},
        "c": {"L": [{"NULL": True}, {"NS": ["1"]}]},
    }
    assert java_names.in_step_functions(sent, shape) == arguments
    assert list(java_names.problems(arguments, shape)) == []
    assert next(java_names.problems(sent, shape, "/Arguments")) == (
        'The field "BOOL" is not supported by Step Functions at /Arguments/TransactItems[0]/Put/Item/a/M/b'
    )
