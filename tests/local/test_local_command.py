"""`cdk-horovod local`: one cloud in the background, found again, which leaves nothing whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from horovod_client.cli import main
from horovod_local import background
from horovod_local.command_line.prerequisites import sample_assembly
from horovod_local.instances.processes import CLOUD_VARIABLE, processes_with
from support.local_cloud import without_namespaces
from support.local_cloud.user_shell import DIGITS, TOOL, Shell
from support.waiting import eventually

pytestmark = pytest.mark.local


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell of a user who has no cloud yet; in the end there is none again."""
    shell = Shell(folder=tmp_path)
    yield shell
    shell.run("local", "down")


def server_of(shell: Shell) -> int:
    """Find the process that serves the shell's cloud."""
    cloud = shell.cloud
    assert cloud is not None
    children = Path(f"/proc/{cloud.pid}/task/{cloud.pid}/children").read_text().split()
    (server,) = (int(child) for child in children)
    return server


def train_until_there_are_nodes(shell: Shell) -> str:
    """Bring the cloud up with a run whose nodes boot; give its address."""
    assert shell.run("local", "up")[0] == 0
    code, printed = shell.run(
        "local", "train", str(DIGITS / "train.py"), "--gpus", "2", "--detach", "--name", "left", "--data", str(DIGITS)
    )
    assert code == 0, printed
    cloud = shell.cloud
    assert cloud is not None
    assert eventually(lambda: [*processes_with(CLOUD_VARIABLE, cloud.endpoint)]) != []
    return cloud.endpoint


def test_verbs_without_a_cloud_say_what_to_do(shell: Shell) -> None:
    """Nothing runs: training says how to start a cloud, and looking is no error."""
    assert shell.run("local", "train", "train.py", "--gpus", "2") == (
        2,
        "cdk-horovod: no local cloud is running: start one with cdk-horovod local up\n",
    )
    assert shell.ask("local", "status") == {"cloud": None}
    assert shell.run("local", "down") == (0, "no local cloud was running\n")


def test_up_says_what_nodes_lack(shell: Shell) -> None:
    """An interpreter without Horovod is refused before anything is started."""
    # GIVEN a Python that sees no installed package
    bare = shell.folder / "python"
    bare.write_text('#!/bin/sh\nunset PYTHONPATH\nexec python3 -S "$@"\n')
    bare.chmod(0o755)
    # WHEN
    code, printed = shell.run("local", "up", "--node-python", str(bare))
    # THEN
    assert (code, shell.cloud) == (2, None)
    assert f"nodes run with {bare}, which lacks horovod and tensorflow (or torch): install it there" in printed


def test_up_needs_no_node_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who has activated the virtual environment, and no Node.js of the machine's own, gets an app all the same."""
    # GIVEN
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert shutil.which("node") is None
    # WHEN
    out = sample_assembly(tmp_path / "sample.out")
    # THEN
    assert (out / "Training.template.json").is_file()


@pytest.mark.slow
def test_up_says_that_the_nodes_of_a_running_cloud_have_another_python(shell: Shell) -> None:
    """An interpreter that would not be used is refused; the one that is used, and none, are fine."""
    # GIVEN
    assert shell.run("local", "up")[0] == 0
    # WHEN
    codes = [shell.run("local", "up", *options)[0] for options in ([], ["--node-python", sys.executable])]
    code, printed = shell.run("local", "up", "--node-python", "/other/python")
    # THEN
    assert (codes, code) == ([0, 0], 2)
    assert printed == (
        f"cdk-horovod: '--node-python' of the running cloud is {sys.executable}, got /other/python: stop that cloud "
        "first with cdk-horovod local down\n"
    )
    # AND a run that is left alone names the way to it
    code, printed = shell.run("local", "train", __file__, "--gpus", "1", "--detach", "--name", "left")
    assert (code, printed.splitlines()) == (
        0,
        [
            "run left started",
            "cdk-horovod: follow it with: cdk-horovod status left --watch --stack Training",
            'cdk-horovod: before that, run in this shell: eval "$(cdk-horovod local env)"',
        ],
    )


@pytest.mark.slow
def test_up_says_that_nodes_have_no_opt_ml(shell: Shell) -> None:
    """Inside a container, for example: `up` says it, and then training does, for a script to which it matters."""
    # GIVEN
    filtered = [sys.executable, without_namespaces.__file__]
    sentence = (
        "cdk-horovod: nodes have no private /opt/ml on this machine (unshare: Operation not permitted): scripts must "
        "find their folders by SM_MODEL_DIR, SM_CHECKPOINT_DIR and the like"
    )
    scripts = {"knows_paths.py": "open('/opt/ml/model/horovod', 'w')", "asks.py": "horovod, 'SM_MODEL_DIR'"}
    for name, text in scripts.items():
        (shell.folder / name).write_text(text)
    # WHEN
    up = subprocess.run(
        [*filtered, *TOOL, "local", "up"], cwd=shell.folder, env=shell.environment, capture_output=True, text=True
    )
    told = {name: shell.run("local", "train", name, "--gpus", "1", "--dry-run")[1] for name in scripts}
    # THEN
    assert up.stderr.splitlines() == [sentence]
    assert {name: sentence in printed.splitlines() for name, printed in told.items()} == {
        "knows_paths.py": True,
        "asks.py": False,
    }


@pytest.mark.slow
def test_data_of_this_machine_is_uploaded_once(shell: Shell) -> None:
    """A folder with a link in it goes to the data bucket before the run starts, and a second run finds it there."""
    # GIVEN
    assert shell.run("local", "up")[0] == 0
    (shell.folder / "data").mkdir()
    (shell.folder / "data" / "digits").symlink_to(DIGITS)
    arguments = ["--gpus", "1", "--detach", "--data", "train=data"]
    # WHEN
    refused = shell.run("local", "train", __file__, *arguments, "--dry-run")
    told = [shell.run("local", "train", __file__, *arguments, "--name", name) for name in ("first", "second")]
    # THEN
    assert refused[0] == 2
    assert "'data.train' is not in S3 yet, and a dry run uploads nothing: run once without it" in refused[1]
    assert [code for code, _ in told] == [0, 0]
    (first, second) = (printed.splitlines() for _, printed in told)
    address = first[0].rpartition(" ")[2]
    assert first[0].startswith("data.train: uploading ")
    assert first[1:3] == ["data.train: uploaded", "run first started"]
    assert second[0].startswith("data.train: unchanged, ")
    assert second[0].endswith(f" at {address}")
    code, printed = shell.run("local", "train", __file__, *arguments, "--dry-run")
    assert (code, f'\\"data\\":{{\\"train\\":\\"{address}\\"}}' in printed) == (0, True)


@pytest.mark.slow
def test_cloud_of_another_version_can_be_ended(shell: Shell) -> None:
    """What it left is not understood: every verb names the one that ends it, and that one does."""
    # GIVEN
    assert shell.run("local", "up")[0] == 0
    server = server_of(shell)
    state = shell.folder / "cdk-horovod" / "local" / background.STATE
    facts = json.loads(state.read_text())
    state.write_text(json.dumps({**{name: facts[name] for name in facts if name != "node_python"}, "new": 1}))
    # WHEN
    told = [shell.run("local", *verb) for verb in (["up"], ["status"], ["train", "train.py", "--gpus", "2"])]
    ended = shell.ask("local", "down")
    # THEN
    sentence = "a local cloud of another version of cdk-horovod is running: stop it with cdk-horovod local down"
    assert told == [(2, f"cdk-horovod: {sentence}\n")] * 3
    assert ended["stopped"] is True
    assert eventually(lambda: Path(f"/proc/{server}").exists(), lambda there: not there) is False
    assert shell.run("local", "up")[0] == 0


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who installed the client alone is told what to install."""
    # GIVEN
    module = import_module("horovod_client.cli.local")  # the package has a command of this name
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "moto" else name)
    # WHEN
    code = main(["local", "up"])
    # THEN
    assert (code, capsys.readouterr().err) == (
        2,
        "cdk-horovod: the local cloud is not installed (missing: moto): pip install 'cdk-horovod[local]'\n",
    )


@pytest.mark.slow
def test_nodes_end_with_a_killed_server(shell: Shell) -> None:
    """The server is killed: its keeper takes the nodes away, and then itself."""
    # GIVEN
    endpoint = train_until_there_are_nodes(shell)
    # WHEN
    os.kill(server_of(shell), signal.SIGKILL)
    # THEN
    assert eventually(lambda: [*processes_with(CLOUD_VARIABLE, endpoint)], lambda left: not left) == []
    assert eventually(lambda: shell.cloud, lambda cloud: cloud is None) is None


@pytest.mark.slow
def test_nodes_end_with_a_killed_keeper(shell: Shell) -> None:
    """The keeper is killed: the server ends by itself, with its nodes; the next cloud begins from nothing."""
    # GIVEN
    endpoint = train_until_there_are_nodes(shell)
    cloud = shell.cloud
    assert cloud is not None
    # WHEN
    os.kill(cloud.pid, signal.SIGKILL)
    # THEN
    assert eventually(lambda: [*processes_with(CLOUD_VARIABLE, endpoint)], lambda left: not left) == []
    assert shell.run("local", "up")[0] == 0
    assert shell.ask("local", "status")["runs"] == []


@pytest.mark.slow
def test_down_cleans_up_after_a_crash_of_both(shell: Shell) -> None:
    """Keeper and server are killed in the same moment: `down` finds the nodes that nobody holds."""
    # GIVEN
    endpoint = train_until_there_are_nodes(shell)
    cloud = shell.cloud
    assert cloud is not None
    server = server_of(shell)
    os.kill(server, signal.SIGSTOP)  # so that it cannot end in order
    for process in (cloud.pid, server):
        os.kill(process, signal.SIGKILL)
    assert [*processes_with(CLOUD_VARIABLE, endpoint)] != []
    # WHEN
    assert shell.run("local", "down")[0] == 0
    # THEN
    assert [*processes_with(CLOUD_VARIABLE, endpoint)] == []
