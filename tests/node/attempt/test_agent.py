"""An agent's ways out, each with a real agent and a real rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from horovod_node import contract
from support.node.rings import SCRIPTS, Ring, pack, wait_for
from support.wheels import write_wheel

pytestmark = pytest.mark.ring


@pytest.fixture
def alone(ring: Ring) -> Ring:
    """One node with one rank that steps for ever."""
    ring.submit(gpus=1, entry_point="count_steps.py")
    ring.start(nodes=1)
    ring.until_training()
    return ring


def test_agent_leaves_when_the_lease_is_gone(alone: Ring) -> None:
    """A fleet that was given back is no longer the agent's: ranks end, exit code EXIT_RELEASED."""
    # WHEN
    alone.release()
    # THEN
    assert alone.agents[0].exit_code() == contract.EXIT_RELEASED
    assert alone.agents[0].left() == []


def test_agent_leaves_when_the_lease_names_another_run(alone: Ring) -> None:
    """A fleet that another run holds is no longer the agent's."""
    # WHEN
    alone.aws.put_lease(alone.fleet, run="another")
    # THEN
    assert alone.agents[0].exit_code() == contract.EXIT_RELEASED
    assert "is held by attempt 1 of run another" in alone.agents[0].text()
    assert alone.agents[0].left() == []


def test_leader_whose_question_is_gone_leaves_with_its_lease(alone: Ring) -> None:
    """A question that nobody asks may be asked again; the leader leaves when the fleet is no longer its run's."""
    # GIVEN
    alone.answers.gone.add(alone.token(contract.TASK_TRAIN))
    # WHEN
    alone.release()
    # THEN
    assert alone.agents[0].exit_code() == contract.EXIT_RELEASED
    assert alone.agents[0].left() == []


def test_agent_stops_its_ranks_when_it_is_told_to_stop(alone: Ring) -> None:
    """SIGTERM, which `docker stop` and instances send, ends the ranks and then the agent, well."""
    # WHEN
    alone.agents[0].process.send_signal(signal.SIGTERM)
    # THEN
    assert alone.agents[0].exit_code() == contract.EXIT_OK
    assert alone.agents[0].left() == []


def test_rank_dies_with_its_agent(alone: Ring) -> None:
    """After SIGKILL to the agent the kernel ends the rank."""
    # GIVEN
    agent = alone.agents[0]
    rank = agent.rank()
    # WHEN
    agent.process.send_signal(signal.SIGKILL)
    # THEN
    wait_for("the end of the rank", lambda: rank not in agent.processes())


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("exit", "ended with exit code 3: SystemExit: 3\n\nIts last lines:\ncounting from 1\nthe last line\n\nTrace"),
        ("told", "ended with exit code 4: SystemExit: 4\n\nIt left in {failure}:\nthe labels are of 2019\n\nIts"),
        ("usage", "ended with exit code 2: SystemExit: 2\n\nIts last lines:\ncounting from 1\nusage: "),
        ("message", "ended with exit code 1: SystemExit: no data is left"),
        ("garbled", "ended with exit code 1: ValueError: no label for caf\\udce9.jpg\n\nTraceback"),
        ("vanish", "ended with exit code 9.\n\nIts last lines:\ncounting from 1\nthe last line"),
        ("killed", "was killed by SIGKILL, as Linux does when memory runs out."),
        ("crash", "was killed by SIGSEGV.\n\nIts last lines:\ncounting from 1\nFatal Python error: Segmentation fault"),
    ],
)
def test_run_fails_with_the_scripts_own_end(ring: Ring, end: str, words: str) -> None:
    """However a script ends its process, the cause says so: the exit code it chose, or the signal that took it."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py", steps=3, end=end)
    # WHEN
    ring.start(nodes=1)
    ring.asked(contract.TASK_RING)
    failed = ring.asked(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_TRAINING_FAILED
    failure = ring.agents[0].ml_root / "output" / "failure"
    assert failed["cause"].startswith(f"Rank 0 on node-1 ({ring.agents[0].address}) {words}".format(failure=failure))
    assert ring.agents[0].exit_code() == contract.EXIT_TRAINING_FAILED
    assert ring.agents[0].left() == []


def test_run_without_a_model_is_told_so(ring: Ring) -> None:
    """A script that leaves nothing in SM_MODEL_DIR ends as ModelMissing, not as a success without a model."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py", steps=20)
    ring.start(nodes=1)
    ring.asked(contract.TASK_RING)
    # WHEN
    trained = ring.asked(contract.TASK_TRAIN)
    failed = ring.asked(contract.TASK_SAVE)
    # THEN
    assert (trained["ranks"], trained["steps"]) == (1, 20)
    assert failed["error"] == contract.ERROR_MODEL_MISSING
    assert failed["cause"].startswith("The script ended well but left no file in SM_MODEL_DIR (")
    assert ring.agents[0].exit_code() == contract.EXIT_TRAINING_FAILED


def test_ring_is_not_formed_without_the_script(ring: Ring) -> None:
    """A script that is not in the archive ends the run before there is a ring, with one sentence."""
    # GIVEN
    ring.submit(gpus=2, entry_point="train_letters.py")
    # WHEN
    ring.start(nodes=2)
    failed = ring.asked(contract.TASK_RING)
    # THEN
    assert failed["error"] == contract.ERROR_INVALID_REQUEST
    assert "'entry_point' is train_letters.py, which the archive s3://" in failed["cause"]
    scripts = sorted(path.name for path in SCRIPTS.glob("*.py"))
    assert f"its Python files are {', '.join(scripts[:10])}" in failed["cause"]


@pytest.mark.parametrize("min_gpus", [2, 1], ids=["static", "elastic"])
def test_leader_says_on_which_node_requirements_failed(ring: Ring, tmp_path: Path, min_gpus: int) -> None:
    """Every node installs the script's requirements; the first that cannot ends the run, in pip's words."""
    # GIVEN a package that only the leader's image leads to
    write_wheel(tmp_path / "mirror", "rare", files={"rare.py": ""})
    ring.submit(gpus=2, min_gpus=min_gpus, entry_point="train.py")
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text("import rare, horovod.tensorflow.elastic, time\ntime.sleep(600)\n")
    (source / "requirements.txt").write_text("rare\n")
    ring.aws.client("s3").put_object(Bucket=ring.aws.data_bucket, Key="source/source.tar.gz", Body=pack(source))
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    ring.start(nodes=1, **settings, PIP_FIND_LINKS=str(tmp_path / "mirror"))
    # WHEN
    ring.start(nodes=1, **settings, PIP_FIND_LINKS=str(tmp_path))
    failed = ring.asked(contract.TASK_RING)
    # THEN
    assert failed["error"] == contract.ERROR_REQUIREMENTS
    where = f"on node node-2 ({ring.agents[1].address})"
    assert failed["cause"].startswith(f"requirements.txt could not be installed {where}: pip ended with exit code 1.")
    assert failed["cause"].endswith("ERROR: No matching distribution found for rare")
    assert [agent.exit_code() for agent in ring.agents] == [contract.EXIT_TRAINING_FAILED] * 2
    assert [agent.left() for agent in ring.agents] == [[], []]


def test_pip_ends_with_its_agent(ring: Ring, tmp_path: Path) -> None:
    """An agent that is told to stop while pip works leaves nothing."""
    # GIVEN a package whose build does not end
    ring.submit(gpus=1, entry_point="train.py")
    package = tmp_path / "source" / "endless"
    package.mkdir(parents=True)
    (package.parent / "train.py").touch()
    (package.parent / "requirements.txt").write_text("./endless\n")
    (package / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'endless'\nbackend-path = ['.']\n"
    )
    (package / "endless.py").write_text("import time\ndef build_wheel(*_, **__): time.sleep(600)\n")
    ring.aws.client("s3").put_object(Bucket=ring.aws.data_bucket, Key="source/source.tar.gz", Body=pack(package.parent))
    ring.start(nodes=1, PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1")
    wait_for("pip", lambda: "pip: Processing ./endless" in ring.agents[0].text(), seconds=60)
    # WHEN
    ring.agents[0].process.send_signal(signal.SIGTERM)
    # THEN
    assert ring.agents[0].exit_code() == contract.EXIT_OK
    assert ring.agents[0].left() == []


def test_node_that_nobody_needs_leaves_at_once(ring: Ring) -> None:
    """A fleet without a lease has no work."""
    # WHEN
    ring.start(nodes=1)
    # THEN
    assert ring.agents[0].exit_code() == contract.EXIT_RELEASED


def test_agent_with_an_incomplete_environment_says_what_is_missing() -> None:
    """One line that names the variable, and EXIT_USAGE."""
    # WHEN
    ended = subprocess.run(
        [sys.executable, "-m", "horovod_node"],
        env={"PYTHONPATH": os.pathsep.join(sys.path), contract.ENV_ENGINE: "mainframe"},
        capture_output=True,
        text=True,
        check=False,
    )
    # THEN
    assert ended.returncode == contract.EXIT_USAGE
    assert (
        ended.stderr
        == f"horovod_node: '{contract.ENV_ENGINE}' must be one of ec2, ecs, sagemaker, local, got 'mainframe'\n"
    )
