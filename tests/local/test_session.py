"""A user's session in a terminal: a run is followed to its end, left alone, stopped, and outlives its client."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pexpect
import pytest

from support.local_cloud.deployment import wait
from support.local_cloud.user_shell import DIGITS, TOOL, Shell
from support.waiting import SECONDS, eventually

pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A user with a local cloud and a folder of data."""
    shell = Shell(folder=tmp_path_factory.mktemp("user"))
    subprocess.run([sys.executable, str(DIGITS / "make_data.py"), str(shell.folder / "digits")], check=True)
    # Twice at the same time: the lock is part of what is proven here.
    ups = [shell.start("local", "up", "--json") for _ in range(2)]
    printed = [up.communicate(timeout=SECONDS)[0] for up in ups]
    try:
        assert [up.returncode for up in ups] == [0, 0], printed
        assert printed[0] == printed[1]
        yield shell
    finally:
        code, said = shell.run("local", "down")
    assert (code, said.splitlines()[-1]) == (0, "the local cloud is gone, and 0 instances with it")


@pytest.fixture(autouse=True)
def nothing_is_left(user: Shell) -> Iterator[None]:
    """After every session, however it ended: no instance and no run."""
    yield
    left = eventually(lambda: user.ask("local", "status"), lambda told: not told["instances"] and not told["runs"])
    assert (left["instances"], left["runs"]) == ([], [])


def train(user: Shell, *, name: str, epochs: int) -> pexpect.spawn[str]:
    """Type what a user types who has data in a folder."""
    return user.terminal(
        *("local", "train", str(DIGITS / "train.py"), "--gpus", "2", "--data", "train=digits"),
        *("--hyperparameters", f'{{"epochs": {epochs}}}', "--name", name, "--poll-seconds", "0.5"),
    )


def plain(text: str) -> str:
    """Leave out what only a terminal understands."""
    return re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_])", "", text)


def until_it_trains(session: pexpect.spawn[str], user: Shell, name: str) -> None:
    """Read the terminal until the run trains."""
    session.expect(name)
    session.expect(r"\* training")
    assert user.find(name).status().state == "RUNNING"


def test_cloud_has_the_sample_app_and_leads_a_shell_into_it(user: Shell) -> None:
    """Two `up`s at once have made one cloud, with one training; `env` leads a shell there, and nowhere else."""
    # WHEN
    told = user.ask("local", "status")
    code, seen = user.run_in_cloud(["bash", "-c", 'echo "$AWS_ENDPOINT_URL $CDK_HOROVOD_STACK $AWS_SESSION_TOKEN"'])
    # THEN
    assert [(training["stack"], training["max_gpus"]) for training in told["trainings"]] == [("Training", 8)]
    assert (code, seen.split()) == (0, [told["cloud"]["endpoint"], "Training"])


def test_run_is_followed_to_its_end(user: Shell) -> None:
    """The terminal shows the phases in turn, then the model's address and the receipt; the exit code is 0."""
    # WHEN
    session = train(user, name="followed", epochs=2)
    session.expect(pexpect.EOF)
    session.close()
    # THEN
    shown = plain(session.before or "")
    assert (session.exitstatus, session.signalstatus) == (0, None), shown
    run = user.find("followed")
    # Phases that are over before the next look are not seen: one before the training is.
    started = re.search(r"\* (queue|capacity|boot|image pull|joining)", shown)
    assert started is not None, shown
    assert 0 <= shown.find("followed") < started.start() < shown.find("* training") < shown.find("SUCCEEDED"), shown
    # A terminal of 100 columns breaks a long address.
    assert run.model_uri in re.sub(r"\s", "", shown)
    assert "run followed succeeded" in shown
    # AND it is what the receipt says
    receipt = run.receipt()
    assert (receipt["outcome"], receipt["ranks"]) == ("succeeded", 2)
    assert all(node["node"] in shown for node in receipt["nodes"])


@pytest.mark.slow
def test_killed_client_changes_nothing(user: Shell) -> None:
    """The client dies in mid-run: the run ends well, and its record is there."""
    # GIVEN
    session = train(user, name="orphaned", epochs=20)
    until_it_trains(session, user, "orphaned")
    # WHEN
    session.kill(signal.SIGKILL)
    # THEN
    run = user.find("orphaned")
    assert wait(run).state == "SUCCEEDED"
    assert run.receipt()["outcome"] == "succeeded"
    # AND whoever comes later is told
    code, shown = user.run_in_cloud([*TOOL, "status", "orphaned"])
    assert (code, shown.splitlines()[-1]) == (0, run.model_uri)


@pytest.mark.slow
def test_interrupted_view_leaves_the_run_to_be_stopped(user: Shell) -> None:
    """Ctrl-C asks: the view can be left alone, and looked at again, and the run be stopped from it."""
    # GIVEN
    session = train(user, name="watched", epochs=1000)
    until_it_trains(session, user, "watched")
    # WHEN
    leave(session, answer="v")
    # THEN
    assert session.exitstatus == 130
    assert "cdk-horovod stop watched --stack Training" in re.sub(r"\s+", " ", plain(session.before or ""))
    run = user.find("watched")
    assert run.status().state == "RUNNING"
    # WHEN
    session = user.terminal_in_cloud("status", "watched", "--watch")
    until_it_trains(session, user, "watched")
    leave(session, answer="s")
    # THEN
    assert session.exitstatus == 1
    assert run.status().state == "ABORTED"
    assert eventually(lambda: user.ask("local", "status")["instances"], lambda left: not left) == []
    assert user.run_in_cloud([*TOOL, "status", "watched"])[0] == 1


def leave(session: pexpect.spawn[str], *, answer: str) -> None:
    """Press Ctrl-C, answer the question, and wait for the end."""
    session.sendintr()
    session.expect("Stop the run")
    session.sendline(answer)
    session.expect(pexpect.EOF)
    session.close()
