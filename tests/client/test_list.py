"""The list of runs, a whole status, the model on disk, and what it cost."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.stub import Stubber

from horovod_client import (
    Holder,
    HorovodClientError,
    InvalidInput,
    ModelNotFound,
    Run,
    RunFailed,
    RunStatus,
    RunSummary,
    Spend,
    TrainingClient,
)
from horovod_client.aws.clients import AwsClients, pricing_region
from horovod_client.aws.retry import keep_trying
from horovod_client.status.instances import Instance, find_instances
from horovod_node import contract
from support.fake_account import Account


def test_lists_the_newest_runs_first(account: Account, client: TrainingClient, script: Path) -> None:
    """Each run comes with what the ledger knows of it; one that is not in the ledger yet is there, too."""
    # GIVEN
    first = client.fit(script, gpus=8, name="list-first")
    request = json.dumps({"gpus": 8, "owner": "ada", "project": "digits"})
    account.set_stage(client.connection, first.name, contract.STAGE_TRAINING, request_json=request)
    client.fit(script, gpus=4, name="list-second").stop()

    # WHEN
    second, found, *others = client.runs(limit=2)

    # THEN
    assert others == []
    assert found == RunSummary(
        name="list-first",
        state="RUNNING",
        stage="training",
        gpus=8,
        started_at=found.started_at,
        ended_at=None,
        owner="ada",
        project="digits",
    )
    assert (second.name, second.state, second.stage, second.gpus) == ("list-second", "ABORTED", None, None)
    assert second.ended_at is not None
    with pytest.raises(InvalidInput, match=r"^'limit' must be at least 1, got 0$"):
        client.runs(limit=0)


def test_tells_who_holds_the_fleet(account: Account, client: TrainingClient, script: Path) -> None:
    """A run that waits knows which run holds the fleet that it could get, and since when."""
    # GIVEN
    run = client.fit(script, gpus=4, name="status-holder")
    account.set_stage(client.connection, run.name, contract.STAGE_QUEUED, request_json='{"gpus": 4}')
    lease = {contract.RUN: {"S": "other"}, contract.ACQUIRED_AT: {"N": "1740823200"}}
    account.put(client.connection, contract.lease_key("TrainingFleet"), lease)  # type: ignore[arg-type]

    # WHEN
    status = run.status()
    # The account is all tests': in theirs nobody holds the fleet.
    account.delete(client.connection, contract.lease_key("TrainingFleet"))

    # THEN
    assert status.holders == (Holder(fleet="TrainingFleet", run="other", since=1_740_823_200),)
    assert status.gpus == 4


def test_lists_the_machines_of_a_fleet() -> None:
    """Instances that are terminating are left out, and a user who may not ask gets None."""
    # GIVEN
    autoscaling = boto3.client(
        "autoscaling", region_name="eu-west-1", aws_access_key_id="testing", aws_secret_access_key="testing"
    )
    machines = [
        {
            "InstanceId": name,
            "InstanceType": "g5.xlarge",
            "AvailabilityZone": "eu-west-1a",
            "LifecycleState": state,
            "HealthStatus": "Healthy",
            "ProtectedFromScaleIn": False,
        }
        for name, state in (("i-a", "InService"), ("i-b", "Pending"), ("i-c", "Terminating:Wait"))
    ]
    group = {
        "AutoScalingGroupName": "group",
        "MinSize": 0,
        "MaxSize": 4,
        "DesiredCapacity": 3,
        "DefaultCooldown": 0,
        "AvailabilityZones": ["eu-west-1a"],
        "HealthCheckType": "EC2",
        "CreatedTime": 0,
        "Instances": machines,
    }
    with Stubber(autoscaling) as stub:
        stub.add_response("describe_auto_scaling_groups", {"AutoScalingGroups": [group]})
        stub.add_client_error("describe_auto_scaling_groups", "AccessDenied")

        # WHEN
        found, denied = (find_instances(autoscaling, group="group", gpus_of={"g5.xlarge": 1}) for _ in range(2))

    # THEN
    assert found == tuple(
        Instance(id=name, instance_type="g5.xlarge", zone="eu-west-1a", gpus=1) for name in ("i-a", "i-b")
    )
    assert denied is None


@pytest.fixture
def put_model(account: Account, client: TrainingClient) -> Callable[[str, dict[str, str]], None]:
    """Put a model where a run leaves it: file to text."""

    def put(run: str, files: dict[str, str]) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        for run_id in account.run_ids(client.connection, run):
            account.s3.put_object(
                Bucket=client.connection.model_bucket, Key=contract.model_key(run_id), Body=buffer.getvalue()
            )

    return put


def test_unpacks_the_model(
    client: TrainingClient, put_model: Callable[[str, dict[str, str]], None], tmp_path: Path
) -> None:
    """The model is unpacked into the folder, unless that has files already."""
    # GIVEN
    put_model("model-there", {"model.keras": "weights", "assets/classes.txt": "ten"})
    run = Run.from_id("model-there", client=client)

    # WHEN
    folder = run.download_model(tmp_path / "models" / "digits")

    # THEN
    assert folder == tmp_path / "models" / "digits"
    assert {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()} == {
        "model.keras": "weights",
        "assets/classes.txt": "ten",
    }
    with pytest.raises(InvalidInput, match=r"^'path' must be a new or empty folder, got '.*digits': choose another"):
        run.download_model(folder)


def test_leaves_nothing_of_a_model_that_would_write_elsewhere(
    client: TrainingClient, put_model: Callable[[str, dict[str, str]], None], tmp_path: Path
) -> None:
    """An archive whose names leave the folder is refused as a whole."""
    # GIVEN
    put_model("model-evil", {"model.keras": "weights", "../evil": "!"})

    # WHEN
    with pytest.raises(HorovodClientError, match=r"^the model s3://.*model-evil.* was not unpacked: it would write"):
        Run.from_id("model-evil", client=client).download_model(tmp_path / "models" / "digits")

    # THEN
    assert list((tmp_path / "models").iterdir()) == []


def test_says_why_there_is_no_model(client: TrainingClient, script: Path, tmp_path: Path) -> None:
    """The error says whether the run has no model yet, or ended without one."""
    # GIVEN
    run = client.fit(script, gpus=4, name="model-missing")

    # THEN
    with pytest.raises(ModelNotFound, match=r"^run 'model-missing' has no model yet: its phase is not known yet$"):
        run.download_model(tmp_path / "model")
    run.stop()
    with pytest.raises(ModelNotFound, match=r"^run 'model-missing' has no model: it ended as ABORTED"):
        run.download_model(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_tells_what_a_run_cost(
    account: Account,
    client: TrainingClient,
    script: Path,
    receipt: dict[str, Any],
    write_receipt: Callable[[dict[str, Any]], None],
) -> None:
    """The cost is the receipt's, and before there is one, that of the nodes so far, if prices are known."""
    # GIVEN
    run = client.fit(script, gpus=4, name="cost-known")
    assert run.cost() is None
    prices = json.dumps([{"instance_type": "g5.xlarge", "market": "spot", "zone": "", "usd": 1}])
    account.set_stage(client.connection, run.name, contract.STAGE_TRAINING, prices_json=prices)

    # WHEN
    before = run.cost()
    write_receipt(receipt | {"run": run.name, "cost": {"usd": 2.5, "usd_per_hour": 1, "saved_usd": 4}})

    # THEN
    assert before == Spend(usd=0, usd_per_hour=0)
    assert run.cost() == Spend(usd=2.5, usd_per_hour=1, saved_usd=4)
    # AND an ended run's status says the same
    run.stop()
    assert run.status().spend == run.cost()


def test_waits_through_network_trouble(client: TrainingClient, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that fails for a while does not end a watch: the error is reported, and the end is seen."""
    # GIVEN
    run = client.fit(script, gpus=4, hyperparameters={"outcome": "failure"}, name="wait-offline")
    look, failures = Run.status, iter([1, 2])

    def flaky(self: Run) -> RunStatus:
        if next(failures, None):
            raise EndpointConnectionError(endpoint_url="https://states")
        return look(self)

    monkeypatch.setattr(Run, "status", flaky)
    trouble: list[str] = []

    # WHEN
    with pytest.raises(RunFailed, match=r"^run 'wait-offline' ended as FAILED"):
        run.wait(poll_seconds=0.01, on_trouble=lambda error: trouble.append(type(error).__name__))

    # THEN
    assert trouble == ["EndpointConnectionError"] * 2


def test_loses_patience_in_the_end() -> None:
    """The error is raised when there was no answer for the time that was given."""

    def fail() -> None:
        raise EndpointConnectionError(endpoint_url="https://states")

    with pytest.raises(EndpointConnectionError):
        keep_trying(fail, patience_seconds=0.02, pause_seconds=0.01)


@pytest.mark.parametrize(
    ("code", "status", "waits"), [("ThrottlingException", 400, True), ("Gone", 503, True), ("AccessDenied", 403, False)]
)
def test_waits_when_aws_asks_for_patience(code: str, status: int, waits: bool) -> None:
    """Throttling and failures of AWS's own are retried, and other errors are raised at once."""
    # GIVEN
    error = ClientError(
        {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "GetLogEvents",
    )
    answers: Iterator[ClientError | str] = iter([error, "lines"])

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, ClientError):
            raise answer
        return answer

    # THEN
    if waits:
        assert keep_trying(call, pause_seconds=0) == "lines"
    else:
        with pytest.raises(ClientError):
            keep_trying(call, pause_seconds=0)


def test_takes_the_clients_that_are_given(account: Account) -> None:
    """A boto3 client that is given is used, and one of a service that is never called is refused."""
    assert AwsClients(region="eu-west-1", s3=account.s3).s3 is account.s3
    with pytest.raises(TypeError, match=r"^'lambda_' must be one of stepfunctions, s3, "):
        AwsClients(region="eu-west-1", lambda_=account.s3)  # type: ignore[call-arg]
    assert [pricing_region(region) for region in ("eu-west-1", "ap-southeast-2", "us-west-2", "sa-east-1")] == [
        "eu-central-1",
        "ap-south-1",
        "us-east-1",
        "us-east-1",
    ]
