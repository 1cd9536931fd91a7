"""Requests to AWS that fail because a test wants them to."""

from __future__ import annotations

import base64
import threading
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from horovod_local import ApiFault, Faults, LocalCloudError
from horovod_local.shared.api_calls import ApiCall, read_call
from horovod_local.shared.faults import ActiveFaults
from horovod_node import contract
from support.waiting import SECONDS, eventually

SDK = "arn:aws:states:::aws-sdk:"
READ = {
    "Type": "Task",
    "Resource": f"{SDK}dynamodb:getItem",
    "Arguments": {"TableName": "tokens", "Key": {"pk": {"S": "any"}}},
}


@pytest.fixture
def once(cloud: Any) -> Any:
    """Makes clients that ask once, of a service."""

    def make(service: str) -> Any:
        return boto3.session.Session().client(
            service,
            endpoint_url=cloud.endpoint,
            region_name=cloud.region,
            aws_access_key_id=cloud.access_key,
            aws_secret_access_key="any",
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    return make


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("dynamodb", "ListTables", {}),
        ("stepfunctions", "ListStateMachines", {}),
        ("autoscaling", "DescribeAutoScalingGroups", {}),
        ("ec2", "DescribeInstances", {}),
        ("cloudformation", "DescribeStacks", {}),
        ("cloudwatch", "ListMetrics", {}),
        ("sns", "ListTopics", {}),
        ("events", "ListRules", {}),
        ("s3", "GetObject", {"Bucket": "any", "Key": "a/b"}),
        ("s3", "PutObject", {"Bucket": "any", "Key": "a/b", "Body": b"x" * 100_000}),
        ("s3", "CreateMultipartUpload", {"Bucket": "any", "Key": "a"}),
        ("s3", "UploadPart", {"Bucket": "any", "Key": "a", "UploadId": "u", "PartNumber": 1, "Body": b"x"}),
        ("s3", "CompleteMultipartUpload", {"Bucket": "any", "Key": "a", "UploadId": "u"}),
        ("s3", "ListObjectsV2", {"Bucket": "any"}),
    ],
)
def test_every_protocol_says_no(
    faults: Any, once: Any, service: str, operation: str, arguments: dict[str, Any]
) -> None:
    """A request of each protocol fails with the code and the status of the fault."""
    # GIVEN
    faults.set_faults(Faults(failing=(ApiFault(service=service, operation=operation, error="SlowDown", status=503),)))
    client = once(service)
    method = client.meta.method_to_api_mapping
    (name,) = [name for name, api in method.items() if api == operation]

    # WHEN
    with pytest.raises(ClientError) as refused:
        getattr(client, name)(**arguments)

    # THEN
    answer = refused.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("SlowDown", 503)


def test_heads_have_a_status_alone(faults: Any, once: Any) -> None:
    """HeadObject fails with the status for a code, as S3's do."""
    # GIVEN
    faults.set_faults(Faults(failing=(ApiFault(service="s3", operation="HeadObject", error="x", status=500),)))

    # WHEN, THEN
    with pytest.raises(ClientError) as refused:
        once("s3").head_object(Bucket="any", Key="a")
    assert refused.value.response["Error"]["Code"] == "500"


@pytest.mark.parametrize(
    ("host", "path", "operation"),
    [
        ("localhost:5000", "/bucket/key/more", "GetObject"),
        ("bucket.localhost:5000", "/key", "GetObject"),
        ("bucket.localhost:5000", "/", "ListObjects"),
        ("localhost:5000", "/bucket", "ListObjects"),
    ],
)
def test_buckets_are_in_the_path_or_the_host(host: str, path: str, operation: str) -> None:
    """What a request to S3 is for follows from its address, wherever that has the bucket."""
    # GIVEN
    credential = "Credential=node-i-1.5f0c/20261123/eu-west-1/s3/aws4_request"
    environ = {
        "REQUEST_METHOD": "GET",
        "HTTP_HOST": host,
        "PATH_INFO": path,
        "HTTP_AUTHORIZATION": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0",
    }

    # WHEN, THEN
    assert read_call(environ) == ApiCall(service="s3", operation=operation, caller="i-1", region="eu-west-1")


def test_faults_may_be_for_one_state(faults: Any, machines: Any) -> None:
    """A fault for a state strikes the calls of the state of that name, in a Map too, and no others."""
    # GIVEN
    fault = {"service": "dynamodb", "error": "InternalServerError", "status": 500}
    faults.set_faults(Faults(failing=(ApiFault(**fault, state="Read: 2 %"),)))
    caught = [{"ErrorEquals": ["DynamoDb.InternalServerErrorException"], "Next": "Caught"}]
    inner = {"StartAt": "Read: 2 %", "States": {"Read: 2 %": {**READ, "End": True}}}
    each = {"Type": "Map", "Items": [1], "ItemProcessor": inner, "Catch": caught, "Next": "Missed"}
    states = {
        "Read": {**READ, "Next": "Each"},
        "Each": each,
        "Missed": {"Type": "Fail", "Error": "Missed"},
        "Caught": {"Type": "Succeed", "Output": "caught"},
    }

    # WHEN, THEN
    assert machines.output({"StartAt": "Read", "States": states}) == "caught"


def test_cancelled_transactions_name_their_reasons(faults: Any, once: Any) -> None:
    """A transaction that a fault cancels says so as DynamoDB does: one reason for each action."""
    # GIVEN
    fault = {"service": "dynamodb", "operation": "TransactWriteItems", "error": "TransactionCanceledException"}
    faults.set_faults(Faults(failing=(ApiFault(**fault, status=400),)))
    puts = [{"Put": {"TableName": "tokens", "Item": {"pk": {"S": name}}}} for name in ("one", "two")]

    # WHEN
    client = once("dynamodb")
    with pytest.raises(client.exceptions.TransactionCanceledException) as refused:
        client.transact_write_items(TransactItems=puts)

    # THEN
    assert "[TransactionConflict, None]" in str(refused.value)
    codes = [reason["Code"] for reason in refused.value.response["CancellationReasons"]]
    assert codes == ["TransactionConflict", "None"]


def test_faults_end_after_so_many_requests(faults: Any, once: Any) -> None:
    """A fault with a number of times fails so many requests of the operations it is for, and no other."""
    # GIVEN
    faults.set_faults(Faults(failing=(ApiFault(service="dynamodb", operation="List*", times=2),)))
    dynamodb = once("dynamodb")

    # WHEN
    codes = []
    dynamodb.describe_limits()
    for _ in range(3):
        try:
            codes.append(dynamodb.list_tables()["ResponseMetadata"]["HTTPStatusCode"])
        except ClientError as error:
            codes.append(error.response["ResponseMetadata"]["HTTPStatusCode"])

    # THEN
    assert codes == [503, 503, 200]


def test_faults_end_after_their_time() -> None:
    """A fault with a time acts from when it is put in force until then; put in force again, it begins anew."""
    # GIVEN
    active = ActiveFaults()
    fault = ApiFault(service="*", seconds=2)
    request = {"service": "s3", "operation": "GetObject", "caller": "local"}

    # WHEN
    active.faults = Faults(failing=(fault,))
    first = active.apply(**request)
    last = eventually(lambda: active.apply(**request), lambda seen: seen is None)
    active.faults = Faults(failing=(fault,))

    # THEN
    assert (first, last, active.apply(**request)) == (fault, None, fault)


def test_dropped_connections_give_no_answer(faults: Any, once: Any, machines: Any) -> None:
    """A dropped request is a lost connection to an SDK; the next is answered."""
    # GIVEN
    faults.set_faults(Faults(failing=(ApiFault(service="dynamodb", operation="ListTables", times=1, error="drop"),)))
    assert machines
    dynamodb = once("dynamodb")

    # WHEN, THEN
    with pytest.raises(ConnectionClosedError):
        dynamodb.list_tables()
    assert "tokens" in dynamodb.list_tables()["TableNames"]


def test_lost_connections_are_sdk_errors(faults: Any, machines: Any) -> None:
    """A task whose service gives no answer fails with the SDK's own error, which a Retry may name."""
    # GIVEN
    faults.set_faults(Faults(failing=(ApiFault(service="dynamodb", caller="workflow", times=2, error="drop"),)))
    retry = [{"ErrorEquals": ["DynamoDb.SdkClientException"], "IntervalSeconds": 1, "MaxAttempts": 1}]

    # WHEN
    failed = machines.run(READ)
    retried = machines.run({**READ, "Retry": retry, "Output": "{% $states.context.State.RetryCount %}"})

    # THEN
    assert (failed["status"], failed["error"]) == ("FAILED", "DynamoDb.SdkClientException")
    assert (retried["status"], retried["output"]) == ("SUCCEEDED", "1")


def test_state_machines_see_the_error(faults: Any, machines: Any, once: Any) -> None:
    """A state machine's call fails with the service's error, and other callers' do not."""
    # GIVEN
    throttled = ApiFault(
        service="dynamodb", operation="GetItem", caller="workflow", error="ThrottlingException", status=400
    )
    faults.set_faults(Faults(failing=(throttled,)))

    # WHEN
    ended = machines.run(READ)
    answered = once("dynamodb").get_item(**READ["Arguments"])

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "DynamoDb.ThrottlingException")
    assert answered["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_nodes_are_callers_of_their_own(faults: Any, cloud: Any, fleets: Any, machines: Any) -> None:
    """Requests of nodes fail while others' do not, and those of one node while another's do not."""
    # GIVEN
    assert machines
    command = "aws dynamodb list-tables --region eu-west-1 >out 2>&1; echo $? > partial; mv partial code; sleep 0.1"
    command = f"until [ -e stop ]; do {command}; done"
    script = f"cat > '{contract.NODE_ENV_FILE}' <<'END'\nAWS_MAX_ATTEMPTS=1\nTEST_COMMAND={command}\nEND\n"
    fleet = fleets.create(user_data=base64.b64encode(script.encode()).decode(), types=(("g5.xlarge", 1),))

    def codes() -> dict[str, str]:
        files = {item.instance_id: Path(item.log).with_name("code") for item in cloud.instances()}
        ours = [member["InstanceId"] for member in fleet.members()]
        return {name: files[name].read_text().strip() for name in ours if name in files and files[name].exists()}

    # WHEN, THEN
    fleet.scale(2)
    first, second = sorted(eventually(codes, lambda seen: list(seen.values()) == ["0", "0"]))
    faults.set_faults(Faults(failing=(ApiFault(service="dynamodb", caller=first),)))
    wanted = {first: "255", second: "0"}
    assert eventually(codes, lambda seen: seen == wanted) == wanted
    faults.set_faults(Faults(failing=(ApiFault(service="dynamodb", caller="node"),)))
    wanted = {first: "255", second: "255"}
    assert eventually(codes, lambda seen: seen == wanted) == wanted
    assert "tokens" in cloud.client("dynamodb").list_tables()["TableNames"]


def test_late_answers_come_when_the_fault_ends(faults: Any, cloud: Any) -> None:
    """A request that is only delayed waits, and succeeds at the latest when the fault is taken away."""
    # GIVEN
    held = ApiFault(service="sns", operation="CreateTopic", error=None, delay_seconds=500)
    faults.set_faults(Faults(failing=(held,)))
    sns, name = cloud.client("sns"), f"topic-{uuid.uuid4()}"
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(sns.create_topic(Name=name)["TopicArn"]))

    # WHEN
    asking.start()
    before = [topic for topic in sns.list_topics()["Topics"] if topic["TopicArn"].endswith(name)]
    faults.set_faults(Faults())
    asking.join(timeout=SECONDS)

    # THEN
    assert before == []
    assert [answer.rpartition(":")[2] for answer in answers] == [name]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"service": "dynamo"}, "'service' must be one of autoscaling, .* or \\*, got dynamo"),
        (
            {"caller": "someone"},
            "'caller' must be node, workflow, an instance's id or a training job's host, got someone",
        ),
        ({"times": 0}, "'times' must be at least 1, got 0"),
        ({"seconds": 0}, "'seconds' must be more than 0, got 0"),
        ({"status": 200}, "'status' must be an HTTP status from 400 to 599, got 200"),
        ({"delay_seconds": -1}, "'delay_seconds' must be at least 0, got -1"),
        ({"error": None}, "'error' must name an error when 'delay_seconds' is 0, got None"),
    ],
)
def test_wrong_api_faults_are_refused(wrong: dict[str, Any], reason: str) -> None:
    """A fault that cannot be, or does nothing, is refused, naming argument and value."""
    # WHEN, THEN
    with pytest.raises(LocalCloudError, match=reason):
        ApiFault(**{"service": "s3", **wrong})
