"""The client looks for data where the nodes will, and refuses what they would refuse."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horovod_client import InvalidInput, TrainingClient
from horovod_client.submit.request import check_data_exists
from horovod_node.transfer.data_channels import list_files
from horovod_node.transfer.s3 import S3Address
from support.fake_account import Account

KEYS = ("digits/x", "digits", "digits/", "digits-old/x", "dig/deep/x", "dig/deep/", "digits//x")
ADDRESSES = ("", "digits", "digits/", "dig", "dig/", "digi", "digits/x", "digits/x/", "dig/deep", "digits//")

bucket_numbers = itertools.count()


def accepted(client: TrainingClient, uri: str) -> bool:
    """Tell whether the client accepts a request with this channel."""
    try:
        check_data_exists({"train": uri}, s3=client.clients.s3)
    except InvalidInput:
        return False
    return True


def new_bucket(account: Account, keys: set[str]) -> str:
    """Make a bucket that holds *keys*."""
    bucket = f"data-{next(bucket_numbers)}"
    account.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for key in keys:
        account.s3.put_object(Bucket=bucket, Key=key, Body=b"" if key.endswith("/") else b"digits")
    return bucket


@pytest.mark.parametrize(
    ("keys", "address", "there"),
    [
        ({"digits/x"}, "digits/", True),
        ({"digits/x"}, "digits", True),
        ({"digits/x"}, "dig", False),
        ({"digits/x"}, "digits/x", True),
        ({"digits/x"}, "digits/x/", False),
        ({"digits.npz"}, "digits.npz", True),
        ({"digits.npz.old"}, "digits.npz", False),
        ({"digits/"}, "digits/", False),
        ({"digits/", "digits/a/"}, "digits", False),
        ({"digits/", "digits/x"}, "digits", True),
        ({"digits/", "digits"}, "digits", True),
        ({"x"}, "", True),
        ({"x/"}, "", False),
        (set(), "digits", False),
    ],
)
def test_takes_a_folder_or_one_object(
    account: Account, client: TrainingClient, keys: set[str], address: str, there: bool
) -> None:
    """A folder with a file and a single object are data; the beginning of a name and an empty folder are not."""
    # GIVEN
    bucket = new_bucket(account, keys)

    # THEN
    assert accepted(client, f"s3://{bucket}/{address}") == there


def test_looks_past_a_page_of_empty_folders(account: Account, client: TrainingClient) -> None:
    """A file is found behind more empty folders than one page of a listing holds, which is 1,000 keys."""
    # GIVEN
    bucket = new_bucket(account, {f"digits/{number:04}/" for number in range(1001)})

    # THEN
    assert not accepted(client, f"s3://{bucket}/digits")
    account.s3.put_object(Bucket=bucket, Key="digits/9", Body=b"digits")
    assert accepted(client, f"s3://{bucket}/digits")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(st.sampled_from(KEYS)))
def test_judges_as_the_node_does(account: Account, client: TrainingClient, keys: set[str]) -> None:
    """For any content of a bucket, the client accepts exactly the addresses at which a node finds a file."""
    # GIVEN
    bucket = new_bucket(account, keys)

    # WHEN
    ours = [accepted(client, f"s3://{bucket}/{address}") for address in ADDRESSES]
    theirs = [any(list_files(account.s3, S3Address(bucket=bucket, key=address))) for address in ADDRESSES]

    # THEN
    assert ours == theirs
