"""Whole runs of the unchanged app: real agents, real Horovod, real Keras, no AWS account."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from horovod_client import InvalidInput
from horovod_local import LocalCloud
from horovod_node import contract
from support.local_cloud.deployment import HEARTBEAT_SECONDS, SCRIPTS, SETTINGS, Deployment, facts, wait
from support.receipts import validate_receipt
from support.synthesis import synthesise
from support.waiting import eventually
from support.wheels import write_wheel

pytestmark = pytest.mark.local


SLACK_SECONDS = 60
"""For the workflow of a loaded machine, beside the time after which it acts."""


@pytest.fixture(scope="module")
def app(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    out = tmp_path_factory.mktemp("assembly") / "cdk.out"
    synthesise(out, settings=SETTINGS)
    cloud.deploy(out)
    return Deployment(cloud=cloud)


@pytest.fixture(autouse=True)
def nothing_is_left(app: Deployment) -> Iterator[None]:
    """After every run, however it ended: no instance, no process, no lease."""
    yield
    app.assert_nothing_is_left()


def test_success_leaves_the_model_and_no_instances(app: Deployment) -> None:
    """A two-node run trains equal weights, and its model is in S3 before it says so."""
    # GIVEN data in S3
    data = app.upload("numbers/part-0.txt", b"1 2 3")
    # WHEN a run trains on two nodes
    run = app.start("trains_briefly.py", data={"numbers": data}, hyperparameters={"epochs": 2, "name": "digits"})
    ended = wait(run)
    # THEN it succeeded with what both ranks agree on
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    assert facts(app.model(run)) == {
        "difference": 0.0,
        "ranks": 2,
        "arguments": ["--epochs", "2", "--name", "digits"],
    }
    # AND the receipt tells of it
    receipt = run.receipt()
    assert (receipt["outcome"], receipt["gpus"], receipt["ranks"], receipt["steps"]) == ("succeeded", 2, 2, 16)
    assert receipt["model"]["uri"] == run.model_uri
    assert [node["instance_type"] for node in receipt["nodes"]] == ["g5.4xlarge", "g5.4xlarge"]
    assert sorted(node["market"] for node in receipt["nodes"]) == [contract.ON_DEMAND, contract.SPOT]
    markets = {node["node"]: node["market"] for node in receipt["nodes"]}
    assert markets[receipt["leader"]] == contract.ON_DEMAND
    # AND it is as its schema says, and the ledger knows of it
    validate_receipt(receipt)
    kept = app.item(contract.run_key(run.run_id)) or {}
    assert int(kept[contract.RECEIPT_AT]["N"]) > 0
    assert all(node["until"] >= node["from"] for node in receipt["nodes"])
    seconds, passed = receipt["seconds"], receipt["times"]
    waited = datetime.fromisoformat(passed["ring_at"]) - datetime.fromisoformat(passed["asked_at"])
    parts = [seconds.get(part, 0) for part in ("capacity", "boot", "pull", "join", "install")]
    assert sum(parts) == pytest.approx(waited.total_seconds(), abs=0.01)
    # AND instances of its fleet are tagged with it
    assert tags_of_the_fleet(app) == {
        contract.RUN_TAG: run.name,
        contract.OWNER_TAG: "unknown",
        contract.PROJECT_TAG: "unknown",
    }
    # AND CloudWatch knows how it trained
    assert app.metric(run, contract.METRIC_RING_SIZE, "Maximum") == 2
    assert 1 <= app.metric(run, contract.METRIC_STEP_SECONDS, "SampleCount") <= 16
    # AND every rank's lines are in a stream that bears the run's name, beside its agent's
    lines = app.logs(run)
    said = sorted(line for stream in lines for line in lines[stream] if "has trained" in line)
    assert said == ["rank 0 of 2 has trained", "rank 1 of 2 has trained"]
    streams = [contract.log_stream(run.name, node, contract.LOG_AGENT) for node in markets]
    joins = [f"{node} joins attempt 1 of run {run.name}" for node in markets]
    assert [word in lines[stream] for stream, word in zip(streams, joins, strict=True)] == [True, True]


def tags_of_the_fleet(app: Deployment) -> dict[str, str]:
    """Read the tags that the fleet's group hands on to its instances, of those that a run writes."""
    groups = app.cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    return {
        tag["Key"]: tag["Value"]
        for group in groups
        for tag in group["Tags"]
        if tag["PropagateAtLaunch"] and tag["Key"].startswith(contract.RUN_TAG.partition(":")[0])
    }


def test_scripts_find_folders_by_path_and_by_variable(app: Deployment) -> None:
    """What a node's processes write below /opt/ml is theirs alone, and what is kept of it comes to S3."""
    if app.cloud.without_opt_ml():
        pytest.skip(f"this machine gives nodes no /opt/ml: {app.cloud.without_opt_ml()}")
    # GIVEN
    data = app.upload("numbers/part-0.txt", b"1 2 3")
    # WHEN a node's rank writes by paths and by variables
    run = app.start("finds_its_folders.py", data={"numbers": data}, hyperparameters={"epochs": 2})
    ended = wait(run)
    # THEN each finds its own node's by both
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    lines = [line for stream in app.logs(run).values() for line in stream if line.startswith("found ")]
    found = [json.loads(line.removeprefix("found ")) for line in lines]
    assert len({rank["host"] for rank in found}) == 2
    for rank in found:
        written = [f"by-path-{rank['host']}", f"by-variable-{rank['host']}"]
        assert rank["folders"] == {variable: [written, written] for variable in rank["folders"]}
        assert rank["data"] == ["1 2 3", "1 2 3"]
        assert rank["hyperparameters"] == {"epochs": "2"}
        assert rank["code"] == ["/opt/ml/code", "/opt/ml/code/finds_its_folders.py"]
    # AND what rank 0's node has left in either way is the run's
    first = found[0]["hosts"][0]
    assert sorted(app.model(run)) == [f"by-path-{first}", f"by-variable-{first}"]
    kept = app.cloud.client("s3").list_objects_v2(
        Bucket=run.connection.model_bucket, Prefix=contract.checkpoint_prefix(run.run_id)
    )["Contents"]
    names = [item["Key"].rpartition("/")[2] for item in kept]
    assert sorted(names) == [f"by-path-{first}", f"by-variable-{first}", contract.CHECKPOINT_MANIFEST]


def test_script_finds_what_its_requirements_name(app: Deployment, tmp_path: Path) -> None:
    """Both nodes install a wheel of the source folder before the ranks start; the receipt says how long that took."""
    # GIVEN a script that needs a package, and a folder with its wheel
    script = (SCRIPTS / "trains_briefly.py").read_text()
    (tmp_path / "train.py").write_text(f"import greeting\n{script}\nprint(greeting.WORDS)\n")
    (tmp_path / "requirements.txt").write_text("greeting>=1\nnumpy\ntensorflow\n")
    write_wheel(tmp_path / "wheels", "greeting", files={"greeting.py": "WORDS = 'out of the wheel'"})
    # WHEN
    run = app.training.fit("train.py", source_dir=tmp_path, gpus=2)
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    assert facts(app.model(run))["ranks"] == 2
    lines = app.logs(run)
    assert sorted(line for stream in lines for line in lines[stream] if "out of the wheel" in line) == [
        "out of the wheel",
        "out of the wheel",
    ]
    installed = [line for stream in lines for line in lines[stream] if "Successfully installed greeting-1.0" in line]
    assert len(installed) == 2
    # AND
    receipt = run.receipt()
    validate_receipt(receipt)
    assert 0 < receipt["seconds"]["install"] < 60


def test_requirements_that_cannot_be_met_end_the_run(app: Deployment, tmp_path: Path) -> None:
    """Another TensorFlow than the image's is refused in pip's words, and no rank starts."""
    # GIVEN
    (tmp_path / "train.py").write_text("raise SystemExit('never')")
    (tmp_path / "requirements.txt").write_text("--no-index\ntensorflow==99.0\n")
    # WHEN
    run = app.training.fit("train.py", source_dir=tmp_path, gpus=2)
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_REQUIREMENTS)
    assert ended.cause is not None
    assert ended.cause.startswith("requirements.txt could not be installed on node i-")
    assert "The user requested tensorflow==99.0" in ended.cause


def test_failing_script_tells_its_traceback(app: Deployment) -> None:
    """The user reads the traceback of the rank that failed first, not a consequence of it on another rank."""
    # WHEN
    run = app.start("raises.py")
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_TRAINING_FAILED)
    assert ended.cause is not None
    assert "ZeroDivisionError: the loss of rank 1 is not a number" in ended.cause
    assert "in on_train_batch_end" in ended.cause
    assert "rank 1" in ended.cause
    receipt = run.receipt()
    validate_receipt(receipt)
    assert (receipt["outcome"], receipt["error"], receipt["cause"]) == ("failed", ended.error, ended.cause)


def test_killed_leader_leaves_nothing(app: Deployment) -> None:
    """When the leader's agent is killed, its missing heartbeats end the run, and every node is gone."""
    # GIVEN a run that trains
    run = app.start("trains_long.py")
    eventually(run.status, lambda status: status.stage == contract.STAGE_TRAINING or status.ended)
    leader = app.leader_of(run)
    (pid,) = [instance.pid for instance in app.cloud.instances() if instance.instance_id == leader]
    assert pid is not None
    # WHEN the leader's agent dies
    os.kill(pid, signal.SIGKILL)
    # THEN the fleet is empty long before anything else would have ended it
    bound = HEARTBEAT_SECONDS + SLACK_SECONDS
    assert eventually(app.instances_left, lambda left: not left, seconds=bound) == []
    ended = wait(run)
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_LEADER_LOST)
    assert leader in str(ended.cause)
    assert run.receipt()["error"] == contract.ERROR_LEADER_LOST


def test_too_many_gpus_are_refused_before_anything_starts(app: Deployment) -> None:
    """A caller of the bare API is refused by the state machine in the words in which the client refuses."""
    # GIVEN a request for more GPUs than the fleet can hold
    with pytest.raises(InvalidInput) as refused:
        app.start("trains_briefly.py", gpus=99)
    arguments = app.training.fit(SCRIPTS / "trains_briefly.py", gpus=2, dry_run=True)
    request = {**json.loads(arguments["input"]), contract.GPUS: 99}
    # WHEN it goes past the client
    run = app.start_past_the_client({**arguments, "input": json.dumps(request)})
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_INVALID_REQUEST)
    assert ended.cause == "'gpus' must be a multiple of 1 up to 16, got 99"
    assert ended.cause in str(refused.value)
    assert "Reserve a fleet" not in app.states_of(run)


def test_empty_data_is_refused_before_anything_starts(app: Deployment) -> None:
    """A prefix without objects ends the run before a node is started."""
    # GIVEN a request whose data went away after the client looked
    address = app.upload("soon-gone/file", b"x")
    arguments = app.training.fit(SCRIPTS / "trains_briefly.py", gpus=2, data={"train": address}, dry_run=True)
    bucket = app.training.connection.data_bucket
    app.cloud.client("s3").delete_object(Bucket=bucket, Key="soon-gone/file")
    # WHEN
    run = app.start_past_the_client(arguments)
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_DATA_NOT_FOUND)
    assert ended.cause == f"'data.train' is empty: {address} holds no object"
    assert "Reserve a fleet" not in app.states_of(run)


@pytest.mark.slow
def test_second_run_queues_while_the_first_holds_the_fleet(app: Deployment) -> None:
    """One fleet, one run: the second starts its nodes when the first has given the fleet back."""
    # GIVEN a run that holds the fleet
    first = app.start("trains_briefly.py")
    eventually(app.lease)
    # WHEN a second one is started
    second = app.start("trains_briefly.py")
    eventually(lambda: "Wait in the queue" in app.states_of(second))
    # THEN it waits, and both succeed one after the other
    assert [wait(first).state, wait(second).state] == ["SUCCEEDED", "SUCCEEDED"]
    assert app.states_of(second).count("Poll the queue") > 1
    assert first.receipt()["times"]["terminated_at"] <= second.receipt()["times"]["reserved_at"]
