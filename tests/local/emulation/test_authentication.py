"""
Who may use the local cloud.

It runs commands, as EC2 runs user data, so it must not take them from other users of the machine, nor from a page in a
browser on it.
"""

from __future__ import annotations

import json
import socket
import stat
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from horovod_local.shared.access_keys import KEY_FILE

FORM = "application/x-www-form-urlencoded"


def ask(cloud: Any, *, method: str = "POST", path: str = "/", body: str = "", **headers: str) -> tuple[int, str]:
    """Send a request as it is written here; return the status and all of the answer."""
    port = urllib.parse.urlsplit(cloud.endpoint).port
    lines = {"Host": f"localhost:{port}", "Content-Length": str(len(body)), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"{text}\r\n{body}".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split(b" ")[1]), answer.decode()


def signature(key: str, *, service: str = "ec2") -> str:
    """Sign as *key* does, as far as anything looks at it."""
    scope = f"20261126/eu-west-1/{service}/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders=host, Signature=0"


def launch_template(name: str) -> str:
    """The form by which EC2 makes a launch template with user data."""
    form = {"Action": "CreateLaunchTemplate", "Version": "2016-11-15", "LaunchTemplateName": name}
    return urllib.parse.urlencode({**form, "LaunchTemplateData.UserData": "dG91Y2ggL3RtcC9nb3QK"})


def templates(cloud: Any) -> set[str]:
    """List the names of all launch templates, also of those that other tests left."""
    pages = cloud.client("ec2").get_paginator("describe_launch_templates").paginate()
    return {item["LaunchTemplateName"] for page in pages for item in page["LaunchTemplates"]}


@pytest.mark.parametrize("key", ["", "local", "ak", "testing", "node-i-1", "AKIAIOSFODNN7EXAMPLE"])
def test_a_request_without_a_key_makes_nothing(cloud: Any, key: str) -> None:
    """Who has no key of the cloud's, or guesses one, makes no launch template."""
    # GIVEN
    name = f"stranger-{uuid.uuid4()}"
    headers = {"Authorization": signature(key)} if key else {}

    # WHEN
    status, _ = ask(cloud, body=launch_template(name), Content_Type=FORM, **headers)

    # THEN
    assert status in (401, 403)
    assert name not in templates(cloud)


def test_a_request_with_the_key_makes_one(cloud: Any) -> None:
    """The same request with the key is answered: it is the key that was missing."""
    # GIVEN
    name = f"friend-{uuid.uuid4()}"

    # WHEN
    status, answer = ask(
        cloud, body=launch_template(name), Content_Type=FORM, Authorization=signature(cloud.access_key)
    )

    # THEN
    assert (status, name in templates(cloud)) == (200, True)
    assert "access-control-" not in answer.lower()


@pytest.mark.parametrize("origin", ["https://example.com", "http://localhost:3000", "null"])
@pytest.mark.parametrize("authorised", [True, False])
def test_a_page_makes_nothing(cloud: Any, origin: str, authorised: bool) -> None:
    """A page's simple request is refused whatever it knows, and its preflight allows nothing."""
    # GIVEN
    name = f"page-{uuid.uuid4()}"
    headers = {"Authorization": signature(cloud.access_key)} if authorised else {}

    # WHEN
    simple, answer = ask(cloud, body=launch_template(name), Content_Type=FORM, Origin=origin, **headers)
    preflight, allowed = ask(
        cloud,
        method="OPTIONS",
        Origin=origin,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization",
    )

    # THEN
    assert (simple, preflight) == (403, 403)
    assert "access-control-" not in (answer + allowed).lower()
    assert name not in templates(cloud)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:{port}", 200),
        ("127.0.0.1:{port}", 200),
        ("bucket.localhost:{port}", 200),
        ("localhost:1", 403),
        ("localhost", 403),
        ("example.com:{port}", 403),
        ("localhost.example.com:{port}", 403),
        ("", 403),
    ],
)
def test_foreign_names_are_refused(cloud: Any, host: str, status: int) -> None:
    """A name that is not the cloud's own is refused, so that a page cannot come by a name that leads here."""
    # GIVEN
    port = urllib.parse.urlsplit(cloud.endpoint).port
    body = urllib.parse.urlencode({"Action": "DescribeLaunchTemplates", "Version": "2016-11-15"})

    # WHEN
    answered, _ = ask(
        cloud, body=body, Content_Type=FORM, Authorization=signature(cloud.access_key), Host=host.format(port=port)
    )

    # THEN
    assert answered == status


@pytest.mark.parametrize("path", ["/_horovod_local/instances", "/_horovod_local/faults", "/moto-api/data.json"])
def test_what_is_not_awss_needs_the_key_too(cloud: Any, path: str) -> None:
    """The requests that AWS does not have are not for everybody either."""
    # WHEN
    without, _ = ask(cloud, method="GET", path=path)
    wrong, _ = ask(cloud, method="GET", path=path, Authorization="Bearer local")
    right, _ = ask(cloud, method="GET", path=path, Authorization=f"Bearer {cloud.access_key}")

    # THEN
    assert (without, wrong, right) == (403, 403, 200)


@pytest.mark.parametrize(
    ("service", "operation", "code"),
    [
        ("s3", "list_buckets", "InvalidAccessKeyId"),
        ("ec2", "describe_instances", "AuthFailure"),
        ("autoscaling", "describe_auto_scaling_groups", "InvalidClientTokenId"),
        ("dynamodb", "list_tables", "UnrecognizedClientException"),
    ],
)
def test_unknown_keys_are_refused_as_by_aws(cloud: Any, service: str, operation: str, code: str) -> None:
    """A client with another key hears what AWS says to one."""
    # GIVEN
    stranger = boto3.session.Session(aws_access_key_id="other", aws_secret_access_key="x", region_name="eu-west-1")

    # WHEN
    with pytest.raises(ClientError) as refused:
        getattr(stranger.client(service, endpoint_url=cloud.endpoint), operation)()

    # THEN
    assert refused.value.response["Error"]["Code"] == code


def test_keys_of_the_cloud_s_own_iam_are_good(cloud: Any) -> None:
    """A user's access key, and a role's session, open the door: the cloud itself gave them out."""
    # GIVEN
    iam, name = cloud.client("iam"), f"user-{uuid.uuid4()}"
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    version = {"Version": "2012-10-17"}
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{cloud.account}:root"}}
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({**version, "Statement": trust}))["Role"]
    listing = {"Effect": "Allow", "Action": "dynamodb:ListTables", "Resource": "*"}
    policy = {"PolicyName": "list", "PolicyDocument": json.dumps({**version, "Statement": listing})}
    iam.put_user_policy(UserName=name, **policy)
    iam.put_role_policy(RoleName=name, **policy)
    session = cloud.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="session")["Credentials"]

    # WHEN
    answers = [
        boto3.session.Session(
            aws_access_key_id=each["AccessKeyId"],
            aws_secret_access_key=each["SecretAccessKey"],
            region_name="eu-west-1",
        )
        .client("dynamodb", endpoint_url=cloud.endpoint)
        .list_tables()["ResponseMetadata"]["HTTPStatusCode"]
        for each in (key, session)
    ]

    # THEN
    assert answers == [200, 200]


def test_presigned_addresses_carry_the_key(cloud: Any) -> None:
    """An address that was presigned with the key is good without a header."""
    # GIVEN
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="presigned", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="presigned", Key="text", Body=b"hello")
    signed = s3.generate_presigned_url("get_object", Params={"Bucket": "presigned", "Key": "text"})
    address = urllib.parse.urlsplit(signed)

    # WHEN
    status, answer = ask(cloud, method="GET", path=f"{address.path}?{address.query}")
    bare, _ = ask(cloud, method="GET", path=address.path)

    # THEN
    assert (status, answer.rpartition("\r\n")[2], bare) == (200, "hello", 403)


def test_only_its_owner_reads_the_key(cloud: Any) -> None:
    """The key is in a file that nobody else reads, and in no log."""
    # GIVEN
    file = Path(cloud.home) / KEY_FILE

    # THEN
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == cloud.access_key
    assert len(cloud.access_key.partition(".")[2]) == 32
    assert cloud.access_key not in cloud.log.read_text()
