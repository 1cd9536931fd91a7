"""The guard in `conftest.py` holds."""

from __future__ import annotations

from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError


@pytest.mark.parametrize("service", ["autoscaling", "cloudformation", "dynamodb", "ec2", "s3", "sts", "stepfunctions"])
def test_clients_point_at_loopback(service: str) -> None:
    """A client that a test builds without further ado talks to this machine, with fake credentials."""
    # GIVEN
    session = boto3.Session()

    # WHEN
    client = session.client(service)

    # THEN
    assert urlsplit(client.meta.endpoint_url).hostname == "127.0.0.1"
    assert session.get_credentials().access_key == "testing"


def test_nothing_answers_there() -> None:
    """A call that was meant for AWS fails instead of being answered by a stranger."""
    # GIVEN
    client = boto3.client("sts", config=Config(retries={"total_max_attempts": 1}))

    # WHEN / THEN
    with pytest.raises(EndpointConnectionError):
        client.get_caller_identity()
