"""The verbs that look at runs: ls, logs, download, tensorboard, completion, and help for all."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
from importlib.metadata import version
from pathlib import Path

import boto3
import click
import pytest
from click.testing import CliRunner

from horovod_client import Run, TrainingClient
from horovod_client.cli import PROGRAM, VERBS, commands, main
from horovod_client.cli.completion_candidates import complete_run
from horovod_client.cli.ls import ls
from horovod_client.results.tensorboard import TensorBoardFiles
from horovod_node import contract
from support.fake_account import STACK, Account

pytestmark = pytest.mark.usefixtures("account")


@pytest.fixture(autouse=True)
def stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every command find the stack."""
    monkeypatch.setenv("CDK_HOROVOD_STACK", STACK)


def test_every_verb_has_help() -> None:
    """Each verb loads, under its own name, and says in one line what it does."""
    # WHEN
    shown = CliRunner().invoke(commands, ["--help"], prog_name=PROGRAM).output
    # THEN
    assert [line.split()[0] for line in shown.splitlines()[-len(VERBS) :]] == list(VERBS)
    for verb in VERBS:
        assert CliRunner().invoke(commands, [verb, "--help"]).exit_code == 0


def test_lists_runs(account: Account, client: TrainingClient, script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest run comes first, with what is known of it."""
    # GIVEN
    client.fit(script, gpus=4, name="verbs-listed")
    account.set_stage(client.connection, "verbs-listed", contract.STAGE_TRAINING)
    # WHEN
    codes = [main(["ls", "--limit", "1"]), main(["ls", "--limit", "1", "--json"])]
    # THEN
    header, row, *document = capsys.readouterr().out.splitlines()
    assert codes == [0, 0]
    assert header.split() == ["run", "state", "stage", "gpus", "started", "took", "owner"]
    assert row.split()[:3] == ["verbs-listed", "RUNNING", "training"]
    assert re.search(r"  \d{4}-\d\d-\d\d \d\d:\d\d UTC  ", row)
    (listed,) = json.loads("\n".join(document))
    assert (listed["name"], listed["stage"]) == ("verbs-listed", "training")
    # AND a run that is over has an end and no stage
    Run.from_id("verbs-listed", client=client).stop()
    assert main(["ls", "--limit", "1"]) == 0
    assert "training" not in capsys.readouterr().out.splitlines()[1]
    # AND a shell completes its name
    tool = click.Context(commands, info_name=PROGRAM, **commands.context_settings)
    offered = complete_run(ls.make_context("ls", [], parent=tool), ls.params[0], "verbs-li")
    assert [item.value for item in offered] == ["verbs-listed"]


def test_prints_logs_of_whom_the_user_names(
    client: TrainingClient, account: Account, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One rank's lines are printed bare, several ranks' with their names, and as JSON a document for each line."""
    # GIVEN
    run = client.fit(script, gpus=4, name="verbs-logs")
    logs = boto3.client("logs", endpoint_url=account.endpoint, region_name="eu-west-1")
    account.make_log_group(client.connection.log_group)
    now = int(time.time() * 1000)
    said = {"rank-0": "loss 0.5", "rank-1": "loss 0.6", contract.LOG_AGENT: "i-1 leads"}
    for later, (speaker, text) in enumerate(said.items()):
        stream = {
            "logGroupName": client.connection.log_group,
            "logStreamName": contract.log_stream(run.name, "i-1", speaker),
        }
        logs.create_log_stream(**stream)
        logs.put_log_events(**stream, logEvents=[{"timestamp": now + later, "message": text}])
    # WHEN
    shown = []
    for options in ([], ["--rank", "1"], ["--all"], ["--agent"], ["--json"]):
        assert main(["logs", run.name, *options]) == 0
        shown.append(capsys.readouterr().out.splitlines())
    # THEN
    assert shown[:4] == [
        ["loss 0.5"],
        ["loss 0.6"],
        ["i-1 rank-0: loss 0.5", "i-1 rank-1: loss 0.6"],
        ["i-1 agent: i-1 leads"],
    ]
    assert [json.loads(line)["text"] for line in shown[4]] == ["loss 0.5"]
    # AND who names a rank that there is not is told so, where a program does not read
    assert main(["logs", run.name, "--rank", "9"]) == 0
    assert capsys.readouterr() == (
        "",
        "cdk-horovod: run 'verbs-logs' has no log lines of rank 9: --all shows every rank, --agent the nodes' "
        "agents, --follow waits for new lines\n",
    )


def test_downloads_a_model(
    client: TrainingClient, tmp_path: Path, capsys: pytest.CaptureFixture[str], account: Account, script: Path
) -> None:
    """The model is unpacked into the folder that the user names; a run without one is refused in one sentence."""
    # GIVEN
    run = client.fit(script, gpus=4, name="verbs-success")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("weights")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    key = contract.model_key(run.run_id)
    account.s3.put_object(Bucket=client.connection.model_bucket, Key=key, Body=packed.getvalue())
    # WHEN
    codes = [
        main(["download", run.name, str(tmp_path / "model")]),
        main(["download", "verbs-nothing"]),
        main(["download", run.name, "/proc/nowhere/model"]),
    ]
    # THEN
    captured = capsys.readouterr()
    assert codes == [0, 2, 2]
    assert captured.err.splitlines()[1] == (
        "cdk-horovod: cannot write to '/proc/nowhere': No such file or directory: name another folder"
    )
    assert captured.out.strip() == str(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_bytes() == b"abc"
    assert captured.err.startswith("cdk-horovod: ")


def test_brings_what_tensorboard_shows(client: TrainingClient, account: Account, tmp_path: Path) -> None:
    """Files are fetched when they are new or have changed; none can leave the folder."""
    # GIVEN
    bucket, prefix = client.connection.model_bucket, contract.tensorboard_prefix("verbs-board")
    for name, body in {"train/events": b"1", "../../escaped": b"x"}.items():
        account.s3.put_object(Bucket=bucket, Key=f"{prefix}{name}", Body=body)
    files = TensorBoardFiles(account.s3, bucket=bucket, run_id="verbs-board", folder=tmp_path / "board")
    # WHEN
    counted = [files.sync()]
    account.s3.put_object(Bucket=bucket, Key=f"{prefix}train/events", Body=b"12")
    counted.append(files.sync())
    # THEN
    assert counted == [1, 1]
    assert (tmp_path / "board" / "train" / "events").read_bytes() == b"12"
    assert not [file for file in tmp_path.rglob("escaped*") if file.is_file()]


def test_says_that_there_is_nothing_for_tensorboard(
    client: TrainingClient,
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No server is started for an ended run that wrote nothing for TensorBoard."""
    # GIVEN
    program = tmp_path / "tensorboard"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    client.fit(script, gpus=4, name="verbs-board-none").stop()
    # WHEN
    code = main(["tensorboard", "verbs-board-none"])
    # THEN
    assert (code, *capsys.readouterr()) == (
        2,
        "",
        "cdk-horovod: run 'verbs-board-none' has no TensorBoard files: its script must write them on rank 0 to "
        "the folder SM_TENSORBOARD_DIR\n",
    )


def test_says_its_version_and_what_to_look_up(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` and `-h` work, and an error of usage names the help to read."""
    # WHEN
    codes = [main(["--version"]), main(["ls", "-h"])]
    told = capsys.readouterr().out
    codes += [main(["trian"]), main(["train", "--gpus", "2"]), main(["local", "nosuch"])]
    # THEN
    assert codes == [0, 0, 2, 2, 2]
    assert told.startswith(f"cdk-horovod {version('cdk-horovod')}\nUsage: cdk-horovod ls ")
    assert capsys.readouterr().err.splitlines() == [
        "cdk-horovod: No such command 'trian': see cdk-horovod --help",
        "cdk-horovod: Missing argument 'SCRIPT': see cdk-horovod train --help",
        "cdk-horovod: No such command 'nosuch': see cdk-horovod local --help",
    ]


def test_prints_a_script_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    """The completion script for Bash is a function that asks the tool itself."""
    # WHEN
    code = main(["completion", "bash"])
    # THEN
    shown = capsys.readouterr().out
    assert code == 0
    assert "_CDK_HOROVOD_COMPLETE=bash_complete" in shown
