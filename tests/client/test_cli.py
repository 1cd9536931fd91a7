"""The command line tool: what it prints and where, and its exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from horovod_client import CapacitySearch, Holder, LostAttempt, Run, RunStatus, TrainingClient
from horovod_client.cli import main
from horovod_client.cli.request_arguments import parse_data, parse_max_runtime
from horovod_client.cli.watch.lines import news_printer
from horovod_node import contract
from support.fake_account import STACK, Account, connection_output

WriteReceipt = Callable[[dict[str, Any]], None]

SUCCESS = ["--hyperparameters", '{"outcome": "success"}', "--poll-seconds", "0.05"]
FAILURE = ["--hyperparameters", '{"outcome": "failure"}', "--poll-seconds", "0.05"]


@pytest.fixture(autouse=True)
def stack(monkeypatch: pytest.MonkeyPatch, account: Account) -> None:  # noqa: ARG001 - the stack must be there
    """Name the stack once, as a user's shell does."""
    monkeypatch.setenv("CDK_HOROVOD_STACK", STACK)


def test_trains_to_the_model_and_the_receipt(
    account: Account,
    client: TrainingClient,
    script: Path,
    data: str,
    receipt: dict[str, Any],
    write_receipt: WriteReceipt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that goes well ends with the model's address and the receipt, and exit code 0."""
    # GIVEN
    receipt["run"] = "cli-success"
    write_receipt(receipt)
    account.set_stage(client.connection, "cli-success", contract.STAGE_SUCCEEDED)

    # WHEN
    code = main(["train", str(script), "--gpus", "8", "--data", f"train={data}", "--name", "cli-success", *SUCCESS])

    # THEN
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    assert captured.out.splitlines()[:4] == [
        "run cli-success started",
        "succeeded",
        Run.from_id("cli-success", client=client).model_uri,
        "run cli-success succeeded",
    ]
    assert "      30.0 s  terminating" in captured.out.splitlines()


def test_trains_to_the_failure(
    script: Path, receipt: dict[str, Any], write_receipt: WriteReceipt, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that fails prints its receipt with the script's traceback, one line on stderr, and exit code 1."""
    # GIVEN
    receipt |= {"run": "cli-failure", "outcome": "failed", "error": "TrainingFailed", "cause": "ValueError: no digits"}
    del receipt["model"]
    write_receipt(receipt)

    # WHEN
    code = main(["train", str(script), "--gpus", "8", "--name", "cli-failure", *FAILURE])

    # THEN
    captured = capsys.readouterr()
    assert code == 1
    assert captured.err.splitlines() == [
        "cdk-horovod: see the output of its ranks with: cdk-horovod logs cli-failure --all --stack Training",
        "cdk-horovod: run 'cli-failure' failed: TrainingFailed",
    ]
    assert captured.out.splitlines()[:3] == [
        "run cli-failure started",
        "run cli-failure failed: TrainingFailed",
        "  ValueError: no digits",
    ]


def test_prints_the_cause_where_there_is_no_receipt(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that ended before it could write a receipt still says why."""
    # WHEN
    code = main(["train", str(script), "--gpus", "4", "--name", "cli-no-receipt", *FAILURE])

    # THEN
    assert code == 1
    assert "ValueError: no digits" in capsys.readouterr().out


def test_prints_one_document_for_programs(
    client: TrainingClient,
    script: Path,
    receipt: dict[str, Any],
    write_receipt: WriteReceipt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With --json stdout is one JSON document; what happens meanwhile goes to stderr."""
    # GIVEN
    receipt["run"] = "cli-json"
    write_receipt(receipt)

    # WHEN
    code = main(["train", str(script), "--gpus", "4", "--name", "cli-json", "--json", *SUCCESS])

    # THEN
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "run cli-json started\n")
    assert json.loads(captured.out) == {
        "run": "cli-json",
        "execution": client.connection.execution_arn("cli-json"),
        "state": "SUCCEEDED",
        "error": None,
        "cause": None,
        "model_uri": Run.from_id("cli-json", client=client).model_uri,
        "receipt": receipt,
    }


def test_prints_the_exact_request_of_a_dry_run(
    account: Account,
    client: TrainingClient,
    script: Path,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A dry run prints StartExecution's arguments; hyperparameters may come from a file."""
    # GIVEN
    parameters = tmp_path / "parameters.json"
    parameters.write_text('{"epochs": 3}')
    checkpoint = f"{contract.checkpoints_of(client.connection.queue, 'before')}20261126T110236Z/manifest.json"
    account.s3.put_object(Bucket=client.connection.model_bucket, Key=checkpoint)
    arguments = ["--gpus", "4", "--data", data, "--hyperparameters", f"@{parameters}", "--max-runtime", "1h30m"]
    arguments += [
        "--max-cost-usd",
        "12.5",
        "--min-gpus",
        "4",
        "--max-restarts",
        "0",
        "--resume-from",
        "before",
        "--no-model",
    ]

    # WHEN
    code = main(["train", str(script), *arguments, "--name", "cli-dry", "--dry-run"])

    # THEN
    printed = json.loads(capsys.readouterr().out)
    request = json.loads(printed.pop("input"))
    assert code == 0
    assert printed == {"stateMachineArn": account.state_machine, "name": "cli-dry"}
    assert request["hyperparameters"] == {"epochs": 3}
    assert request["data"] == {"training": data}
    assert request["max_runtime_seconds"] == 5400
    assert request["max_cost_usd"] == 12.5
    assert (request["min_gpus"], request["max_restarts"], request["resume_from"]) == (4, 0, "before")
    assert request["model"] == "optional"
    assert "cli-dry" not in account.runs()


def test_follows_a_detached_run_by_its_name(
    account: Account, client: TrainingClient, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each verb finds a detached run by its name alone."""
    # WHEN
    codes = [main(["train", str(script), "--gpus", "4", "--name", "cli-detached", "--detach"])]
    account.set_stage(client.connection, "cli-detached", contract.STAGE_JOINING)
    codes += [main([verb, "cli-detached"]) for verb in ("status", "stop", "status", "stop", "receipt")]

    # THEN
    captured = capsys.readouterr()
    assert codes == [0, 0, 0, 1, 2, 2]
    assert captured.out.splitlines() == [
        "run cli-detached started",
        "run cli-detached: RUNNING, starting",
        "waiting for nodes",
        "run cli-detached stopped",
        "run cli-detached: ABORTED",
        "stopped by a user",
    ]
    assert captured.err.splitlines() == [
        "cdk-horovod: follow it with: cdk-horovod status cli-detached --watch --stack Training",
        "cdk-horovod: run 'cli-detached' failed: StoppedByUser",
        "cdk-horovod: run 'cli-detached' has ended: ABORTED",
        "cdk-horovod: run 'cli-detached' has no receipt: it ended; the clean-up writes it once no node is left",
    ]


def test_prints_what_a_run_waits_for(
    account: Account, client: TrainingClient, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status of a queued run says how many come first, with the state machine's remarks."""
    # GIVEN
    client.fit(script, gpus=4, name="cli-queued")
    account.set_stage(client.connection, "cli-queued", contract.STAGE_QUEUED, notice="No price is known.")
    lines = [{"cli-queued": 1, "b": 2}, {"cli-queued": 2, "a": 1, "b": 3}, {"cli-queued": 3, "a": 1, "b": 2}]

    # WHEN
    for places in lines:
        account.set_line(client.connection, places)
        assert main(["status", "cli-queued"]) == 0

    # THEN
    assert capsys.readouterr().out.splitlines() == [
        "run cli-queued: RUNNING, queued",
        "waiting for a fleet: next in the queue",
        "No price is known.",
        "run cli-queued: RUNNING, queued, 1 run before it",
        "waiting for a fleet: place 2 in the queue",
        "No price is known.",
        "run cli-queued: RUNNING, queued, 2 runs before it",
        "waiting for a fleet: place 3 in the queue",
        "No price is known.",
    ]


def test_prints_where_a_run_looks_for_capacity(
    account: Account, client: TrainingClient, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status says which capacity attempt is made, since when, and in EC2's words why the last one failed."""
    # GIVEN
    client.fit(script, gpus=4, name="cli-capacity")
    search = {"number": 1, "of": 5, "attempt": "Spot in any zone", "since": int(time.time()) - 190, "refusal": ""}
    later = search | {"number": 2, "attempt": "Spot in eu-west-1a", "refusal": "There is no Spot capacity available."}

    # WHEN
    for stage, told in (("joining", search), ("joining", later), ("training", later)):
        account.set_stage(client.connection, "cli-capacity", stage, capacity_json=json.dumps(told))
        assert main(["status", "cli-capacity"]) == 0

    # THEN
    assert capsys.readouterr().out.splitlines() == [
        "run cli-capacity: RUNNING, starting",
        "waiting for capacity: attempt 1 of 5 (Spot in any zone) for 3 min",
        "run cli-capacity: RUNNING, starting",
        "waiting for capacity: attempt 2 of 5 (Spot in eu-west-1a) for 3 min; "
        "AWS said: There is no Spot capacity available.",
        "run cli-capacity: RUNNING, training",
    ]


def test_prints_that_a_run_started_again(
    account: Account, client: TrainingClient, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status says how often a run started again, with the first line of the last cause."""
    # GIVEN
    client.fit(script, gpus=4, name="cli-restarts")
    lost = [
        {"attempt": 1, "error": "NodeFailed", "cause": "Node i-1 left.", "at": "2026-03-01T12:00:00Z"},
        {"attempt": 2, "error": "LeaderLost", "cause": "No heartbeat.\nSee its log.", "at": "2026-03-01T13:00:00Z"},
    ]

    # WHEN
    account.set_stage(client.connection, "cli-restarts", "training", restarts_json=json.dumps(lost))
    main(["status", "cli-restarts"])

    # THEN
    assert capsys.readouterr().out.splitlines() == [
        "run cli-restarts: RUNNING, training",
        "restarted 2 times: LeaderLost: No heartbeat.",
    ]


def test_prints_each_piece_of_news_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A watched run prints a stage again only if its place in the queue changed, and other news once."""
    # GIVEN
    search = CapacitySearch(number=1, of=2, attempt="Spot in any zone", since=0)
    lost = LostAttempt(attempt=1, error="LeaderLost", cause="No heartbeat.", at="2026-03-01T12:00:00Z")
    held = Holder(fleet="Big", run="other", since=1)
    news = [
        RunStatus(run="r", state="RUNNING"),
        RunStatus(run="r", state="RUNNING", stage="queued", place=3),
        RunStatus(run="r", state="RUNNING", stage="queued", place=2),
        RunStatus(run="r", state="RUNNING", stage="queued", place=2),
        RunStatus(run="r", state="RUNNING", stage="queued", phase="queue", place=2, holders=(held,)),
        RunStatus(run="r", state="RUNNING", stage="queued", phase="queue", place=2, holders=(held,)),
        RunStatus(run="r", state="RUNNING", stage="starting", phase="capacity"),
        RunStatus(run="r", state="RUNNING", stage="joining", phase="capacity", capacity=search),
        RunStatus(run="r", state="RUNNING", stage="joining", phase="capacity", capacity=search),
        RunStatus(run="r", state="RUNNING", stage="joining", phase="boot", capacity=search),
        RunStatus(run="r", state="RUNNING", stage="training", notice="No price is known."),
        RunStatus(run="r", state="RUNNING", stage="training", notice="No price is known.", restarts=(lost,)),
        RunStatus(run="r", state="SUCCEEDED", stage="succeeded", notice="No price is known."),
    ]
    print_news = news_printer(err=False)

    # WHEN
    for status in news:
        print_news(status)

    # THEN
    assert capsys.readouterr().out.splitlines() == [
        "queued, 2 runs before it",
        "queued, 1 run before it",
        "waiting for a fleet: place 2 in the queue, run other holds Big",
        "starting",
        "waiting for capacity: attempt 1 of 2, Spot in any zone",
        "joining",
        "training",
        "No price is known.",
        "restarted 1 time: LeaderLost: No heartbeat.",
        "succeeded",
    ]


def test_prints_status_and_receipt_for_programs(
    client: TrainingClient,
    script: Path,
    receipt: dict[str, Any],
    write_receipt: WriteReceipt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The verbs `train`, `status`, `receipt` and `stop` print one JSON document with --json."""
    # GIVEN
    receipt["run"] = "cli-verbs"
    write_receipt(receipt)
    arn = client.connection.execution_arn("cli-verbs")

    # WHEN
    main(["train", str(script), "--gpus", "4", "--name", "cli-verbs", "--detach", "--json"])
    started = json.loads(capsys.readouterr().out)
    main(["status", "cli-verbs", "--json"])
    status = json.loads(capsys.readouterr().out)
    main(["receipt", "cli-verbs", "--json"])
    printed = json.loads(capsys.readouterr().out)
    main(["stop", "cli-verbs", "--json"])
    stopped = json.loads(capsys.readouterr().out)

    # THEN
    assert started == stopped == {"run": "cli-verbs", "execution": arn}
    assert status == {
        "run": "cli-verbs",
        "state": "RUNNING",
        "stage": None,
        "phase": None,
        "error": None,
        "cause": None,
        "model_uri": None,
        "notice": None,
        "place": None,
        "holders": [],
        "capacity": None,
        "restarts": [],
        "gpus": None,
        "started_at": status["started_at"],
        "nodes": [],
        "progress": None,
        "spend": None,
        "job": None,
    }
    assert printed == receipt


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpus", "20"], "'gpus' must be a multiple of 4 up to 16, got 20"),
        (["--gpus", "4", "--max-cost-usd", "-1"], "'max_cost_usd' must be more than 0, got -1"),
        (["--gpus", "4", "--max-cost-usd", "nan"], "'max_cost_usd' must be a finite number, got nan"),
        (["--gpus", "4", "--max-cost-usd", "5$"], "Invalid value for '--max-cost-usd': '5$' is not a valid float: see"),
        (["--gpus", "many"], "Invalid value for '--gpus': 'many' is not a valid integer: see"),
        ([], "Missing option '--gpus': see cdk-horovod train --help"),
        (
            ["--gpus", "4", "--hyperparameters", "epochs=3"],
            "'--hyperparameters' must be JSON, like '{\"epochs\": 3}', got 'epochs=3': "
            "Expecting value: line 1 column 1 (char 0)",
        ),
        (
            ["--gpus", "4", "--hyperparameters", '{"rate": NaN}'],
            "'--hyperparameters' must be JSON, like '{\"epochs\": 3}', got '{\"rate\": NaN}': NaN is not JSON",
        ),
        (
            ["--gpus", "4", "--hyperparameters", "[1, 2]"],
            "'--hyperparameters' must be a JSON object, like '{\"epochs\": 3}', got '[1, 2]'",
        ),
        (
            ["--gpus", "4", "--hyperparameters", "@nowhere.json"],
            "'--hyperparameters' cannot be read from 'nowhere.json': No such file or directory",
        ),
        (["--gpus", "4", "--max-runtime", "3\nh"], "'--max-runtime' must be a time like 24h, 1h30m or 90s, got '3 h'"),
        (["--gpus", "4", "--max-runtime", ""], "'--max-runtime' must be a time like 24h, 1h30m or 90s, got ''"),
        (
            ["--gpus", "4", "--data", "train=s3://a/b", "--data", "train=s3://c/d"],
            "'--data' must name each channel once, got 'train' for s3://a/b and s3://c/d: name them, as in test=s3://c/d",
        ),
        (
            ["--gpus", "4", "--stack", "Nowhere"],
            "there is no stack 'Nowhere' in eu-west-1: check its name and AWS_REGION",
        ),
        (["--gpus", "4", "--colour", "red"], "No such option '--colour': see cdk-horovod train --help"),
    ],
)
def test_fails_in_one_line_when_the_input_is_bad(
    account: Account,
    client: TrainingClient,
    script: Path,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bad input is one line on stderr and exit code 2; nothing was uploaded and nothing started."""
    # GIVEN
    before = account.keys(client.connection.data_bucket), account.runs()

    # WHEN
    code = main(["train", str(script), *arguments])

    # THEN
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith(f"cdk-horovod: {sentence}")
    assert captured.err.count("\n") == 1
    assert (account.keys(client.connection.data_bucket), account.runs()) == before


def test_fails_in_one_line_when_script_or_data_is_missing(
    client: TrainingClient, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script or data that does not exist is named in one line."""
    # GIVEN
    empty = f"s3://{client.connection.data_bucket}/empty/"

    # WHEN
    codes = [
        main(["train", f"{script}x", "--gpus", "4"]),
        main(["train", str(script), "--gpus", "4", "--data", f"train={empty}"]),
    ]

    # THEN
    assert codes == [2, 2]
    assert capsys.readouterr().err.splitlines() == [
        f"cdk-horovod: cannot read '{script}x': No such file or directory",
        f"cdk-horovod: 'data.train' is empty: {empty} holds no object",
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no usable AWS credentials (Unable to locate cre"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "no usable AWS credentials (Partial credentials found in env"),
        ({"AWS_PROFILE": "nobody"}, "no usable AWS credentials (The config profile (nobody) could not be found): sign"),
        ({"AWS_DEFAULT_REGION": None}, "You must specify a region: set AWS_REGION to the region of the stack"),
        ({"AWS_DEFAULT_REGION": "no region"}, "Provided region_name 'no region' doesn't match a supported format: set"),
        (
            {"AWS_DEFAULT_REGION": "us-east-1"},
            "there is no stack 'Training' in us-east-1: check its name and AWS_REGION",
        ),
        ({"AWS_REGION": "us-east-1"}, "there is no stack 'Training' in us-east-1: check its name and AWS_REGION"),
        ({"AWS_DEFAULT_REGION": None, "AWS_REGION": "eu-west-1"}, "there is no run 'some-run'"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "cannot reach AWS (Could not connect to the endpoint URL: "),
        ({"CDK_HOROVOD_STACK": None}, "Missing option '--stack' (env var: 'CDK_HOROVOD_STACK'): see"),
    ],
)
def test_fails_in_one_line_when_the_environment_is_bad(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing credentials and a wrong stack are told in one line, with exit code 2."""
    # GIVEN
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)

    # WHEN
    code = main(["status", "some-run"])

    # THEN
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith(f"cdk-horovod: {sentence}")
    assert captured.err.count("\n") == 1


def test_shows_the_traceback_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    """With --debug the traceback comes before the line, which stays the last."""
    # WHEN
    code = main(["status", "never", "--debug"])

    # THEN
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "cdk-horovod: there is no run 'never' in the last 90 days: cdk-horovod ls lists the runs"


def test_says_what_aws_refused(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of AWS is reported with the call and AWS's own words."""
    # GIVEN
    gone = "arn:aws:states:eu-west-1:123456789012:stateMachine:Gone"
    account.deploy("Stale", {"Connection": connection_output(ledger_table="gone", state_machine=gone)})

    # WHEN
    code = main(["train", __file__, "--gpus", "4", "--stack", "Stale"])

    # THEN
    assert code == 2
    assert capsys.readouterr().err.startswith("cdk-horovod: AWS refused StartExecution (StateMachineDoesNotExist): ")


def test_owns_up_to_its_own_faults(write_receipt: WriteReceipt, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that nobody expected is one line as well, with an exit code of its own."""
    # GIVEN
    write_receipt({"run": "cli-torn", "version": 2, "times": {}, "nodes": 7})

    # WHEN
    code = main(["receipt", "cli-torn"])

    # THEN
    assert code == 70
    assert capsys.readouterr().err == (
        "cdk-horovod: unexpected TypeError: 'int' object is not iterable; --debug shows where\n"
    )


def test_shows_help_where_there_is_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """The bare command shows the help as an error, and `--help` shows it as output."""
    # THEN
    assert main([]) == 2
    assert "Usage: cdk-horovod" in capsys.readouterr().err
    assert main(["train", "--help"]) == 0
    assert "--gpus INTEGER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "data"),
    [
        (["s3://bucket/digits"], {"training": "s3://bucket/digits"}),
        (["s3://bucket/year=2024/"], {"training": "s3://bucket/year=2024/"}),
        (["train=s3://bucket/year=2024/", "test=s3://b/c"], {"train": "s3://bucket/year=2024/", "test": "s3://b/c"}),
        (["=s3://bucket/x"], {"": "s3://bucket/x"}),
        (["digits"], {"training": "digits"}),
    ],
)
def test_tells_a_channel_from_an_address(values: list[str], data: dict[str, str]) -> None:
    """The text before the first '=' is a channel, unless it is part of the address."""
    assert parse_data(values) == data


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86_400), ("1h30m", 5_400), ("90s", 90), ("2m1s", 121), ("0s", 0)]
)
def test_reads_times(text: str, seconds: int) -> None:
    """A time may combine hours, minutes and seconds."""
    assert parse_max_runtime(text).total_seconds() == seconds


def test_runs_as_a_program(client: TrainingClient, script: Path) -> None:
    """The tool works as a process of its own, with the exit code that a shell sees."""
    # GIVEN
    command = [sys.executable, "-m", "horovod_client", "train", str(script), "--gpus", "4", "--json", *SUCCESS]

    # WHEN
    process = subprocess.run([*command, "--name", "cli-process"], capture_output=True, text=True, check=False)

    # THEN
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["model_uri"] == (Run.from_id("cli-process", client=client).model_uri)


def test_leaves_the_run_alone_when_interrupted(client: TrainingClient, script: Path) -> None:
    """Ctrl-C ends the watching and not the run, and the tool says how to come back or to stop it."""
    # GIVEN
    command = [sys.executable, "-m", "horovod_client", "train", str(script), "--gpus", "4", "--name", "cli-interrupted"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, and so a test run in one, is started with SIGINT ignored, and Python keeps it so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        started = process.stdout.readline()

        # WHEN
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()

    # THEN
    assert started == "run cli-interrupted started\n"
    assert process.returncode == 130
    assert err == (
        "cdk-horovod: the run continues; see it with: cdk-horovod status cli-interrupted --stack Training, "
        "stop it with: cdk-horovod stop cli-interrupted --stack Training\n"
    )
    assert Run.from_id("cli-interrupted", client=client).status().state == "RUNNING"
