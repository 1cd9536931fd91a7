"""AWS's APIs on loopback, with one training deployed, and what a user has at hand."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from horovod_client import TrainingClient
from horovod_node import contract
from support.fake_account import MACHINE, STACK, Account, configure_moto, connection_output
from support.receipts import successful_receipt

REGION = "eu-west-1"

# A process of its own: moto keeps its state and its configuration in module globals, which other tests use too. A run
# that is stopped is over when StopExecution answers; uncorrected, moto says so at some later time.
# It ends with its standard input, at once, though the executions that wait for an hour have threads of their own.
SERVER = """
import os, sys
from moto.server import ThreadedMotoServer
from horovod_local.corrections import executions
executions.stopping_aborts_at_once.install()
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Serve AWS's APIs on loopback."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        # Without this moto records executions and does not execute them.
        configure_moto(url, "config", json.dumps({"stepfunctions": {"execute_state_machine": True}}))
        yield url


@pytest.fixture(scope="session")
def account(endpoint: str) -> Account:
    """Deploy the stack `Training`, with one training."""
    session = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)
    stepfunctions = session.client("stepfunctions", endpoint_url=endpoint)
    account = Account(
        endpoint=endpoint,
        session=session,
        state_machine=stepfunctions.create_state_machine(
            name="TrainingRun", definition=json.dumps(MACHINE), roleArn="arn:aws:iam::123456789012:role/TrainingRun"
        )["stateMachineArn"],
        cloudformation=session.client("cloudformation", endpoint_url=endpoint),
        dynamodb=session.client("dynamodb", endpoint_url=endpoint),
        s3=session.client("s3", endpoint_url=endpoint),
        stepfunctions=stepfunctions,
    )
    account.deploy(STACK, {"TrainingConnection": connection_output(), "Other": {"Description": "no", "Value": "{}"}})
    return account


@pytest.fixture(autouse=True)
def environment(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the client the environment of a user who is signed in, to the fake account and nowhere else."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "CDK_HOROVOD_STACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture(scope="session")
def client(account: Account) -> TrainingClient:
    """Connect to the training of the stack `Training`."""
    return TrainingClient.from_stack(
        STACK,
        cloudformation=account.cloudformation,
        dynamodb=account.dynamodb,
        s3=account.s3,
        stepfunctions=account.stepfunctions,
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Write a training script, whose text is this test's own."""
    path = tmp_path / "train.py"
    path.write_text(f"print({str(tmp_path)!r})  # as one that averages by horovod and saves to SM_MODEL_DIR\n")
    return path


@pytest.fixture(scope="session")
def data(account: Account, client: TrainingClient) -> str:
    """Put one object under a prefix of the data bucket, and name the prefix."""
    bucket = client.connection.data_bucket
    account.s3.put_object(Bucket=bucket, Key="digits/train.npz", Body=b"digits")
    return f"s3://{bucket}/digits/"


@pytest.fixture
def write_receipt(account: Account, client: TrainingClient) -> Callable[[dict[str, Any]], None]:
    """Write a receipt where the state machine writes it."""

    def write(receipt: dict[str, Any]) -> None:
        for run_id in account.run_ids(client.connection, receipt["run"]):
            account.s3.put_object(
                Bucket=client.connection.model_bucket,
                Key=contract.receipt_key(run_id),
                Body=json.dumps(receipt).encode(),
            )

    return write


@pytest.fixture
def receipt() -> dict[str, Any]:
    """Build the receipt of a run that succeeded."""
    return successful_receipt()


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Write files, given as path and text, into a folder of this test."""

    def write(files: dict[str, str]) -> Path:
        folder = tmp_path / "code"
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return folder

    return write
