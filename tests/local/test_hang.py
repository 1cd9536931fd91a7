"""Rings in which one rank stands still with its process alive: real agents, real Horovod, real Keras."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from horovod_client import Run
from horovod_local import LocalCloud, LocalInstance
from horovod_node import contract
from horovod_node.rank_process.progress import Progress
from support.faults.lab import until
from support.local_cloud.deployment import HEARTBEAT_SECONDS, SCRIPTS, SETTINGS, Deployment, wait
from support.synthesis import synthesise
from support.waiting import eventually

# The same proof without the workflow around it is in tests/node/ring/test_ring.py, and takes half the time.
pytestmark = [pytest.mark.slow, pytest.mark.local]

STALL_SECONDS = 10
BOUND = STALL_SECONDS + 5 + 6 * min(5, HEARTBEAT_SECONDS / 4, STALL_SECONDS / 4)
"""docs/termination.md, "A ring that stands still"."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    out = tmp_path_factory.mktemp("assembly") / "cdk.out"
    synthesise(out, settings={**SETTINGS, "stall_seconds": STALL_SECONDS})
    with LocalCloud(home=tmp_path_factory.mktemp("hang")) as cloud:
        cloud.deploy(out)
        yield Deployment(cloud=cloud)


@pytest.fixture(autouse=True)
def nothing_is_left(app: Deployment) -> Iterator[None]:
    """After every run, however it ended: no instance, no process, no lease."""
    yield
    app.assert_nothing_is_left()


def test_rank_that_sleeps_for_ever_is_named(app: Deployment) -> None:
    """Rank 1 sleeps inside a callback: the error names it first, with its node, its last step and its line."""
    # GIVEN a run whose rank 1 does not come back from its 20th step
    run = app.start("hangs.py", hyperparameters={"rank": 1, "step": 20})
    node = node_of(app, run, rank=1)
    assert eventually(lambda: steps_of(node, rank=1), lambda step: step >= 20) == 20
    # WHEN it stands still
    assert until(BOUND, lambda: has_left_training(app, run)), "no stall was found within the bound"
    # THEN
    ended = wait(run)
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_TRAINING_STALLED)
    first, *others = suspects(ended.cause)
    where = f"hangs.py:{line_of('time.sleep(3600)')} in on_train_batch_end"
    assert first == f"rank 1 on {node.instance_id} ({node.address}), step 20: in {where}"
    # AND the rank that waited for it comes after it
    (other,) = others
    assert re.fullmatch(
        rf"rank 0 on {app.leader_of(run)} \([\d.]+\), step 2[01]: inside a call from hangs.py:.*", other
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_stopped_rank_is_named(app: Deployment, rank: int) -> None:
    """SIGSTOP stops a rank in the middle of a step, on the leader's node or on the other one."""
    # GIVEN a ring that trains
    run = app.start("trains_long.py")
    node = node_of(app, run, rank=rank)
    assert eventually(lambda: steps_of(node, rank=rank), lambda step: step >= 20) >= 20
    # WHEN one of its ranks stands still, with its agent alive
    process = process_of(node, rank=rank)
    os.kill(process, signal.SIGSTOP)
    step = steps_of(node, rank=rank)
    assert until(BOUND, lambda: has_left_training(app, run)), "no stall was found within the bound"
    # THEN
    ended = wait(run)
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_TRAINING_STALLED)
    first, *others = suspects(ended.cause)
    assert first == (
        f"rank {rank} on {node.instance_id} ({node.address}), step {step}: "
        "does not answer, its process is stopped or hangs inside the kernel"
    )
    # AND the rank that waited for it comes after it
    (other,) = others
    assert other.startswith(f"rank {1 - rank} on ")
    assert "inside a call from trains_long.py:" in other
    # AND SIGSTOP keeps no process alive
    assert not eventually(lambda: lives(process), lambda alive: not alive)


def node_of(app: Deployment, run: Run, *, rank: int) -> LocalInstance:
    """Find the instance that holds *rank*, once there is a ring: rank 0 is the leader's."""
    leader = eventually(lambda: app.leader_of(run))
    nodes = eventually(app.cloud.instances, lambda nodes: len(nodes) == 2)
    return next(node for node in nodes if (node.instance_id == leader) == (rank == 0))


def steps_of(node: LocalInstance, *, rank: int) -> int:
    """Tell how many steps *rank* has told its agent of."""
    return Progress.read(Path(node.log).parent / "ml" / "ranks" / f"rank-{rank}.progress").step


def process_of(node: LocalInstance, *, rank: int) -> int:
    """Find the process of *rank* on *node*."""
    wanted = {f"{contract.ENV_NODE_ID}={node.instance_id}".encode(), f"HOROVOD_RANK={rank}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:  # gone meanwhile, or not ours
            continue
        if b"horovod_node.rank_process.rank" in command and wanted <= set(environment.split(b"\0")):
            return int(folder.name)
    raise AssertionError(f"rank {rank} does not run on {node.instance_id}")


def lives(process: int) -> bool:
    """Whether a rank's process has not ended."""
    try:
        return b"horovod_node.rank_process.rank" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def has_left_training(app: Deployment, run: Run) -> bool:
    """Whether the workflow knows that the training failed."""
    states = app.states_of(run)
    return "Train" in states and states[-1] != "Train"


def suspects(cause: str | None) -> list[str]:
    """Give the lines of a stall's cause that name ranks, the most suspicious first."""
    what, *ranks = str(cause).splitlines()
    assert re.fullmatch(
        r"No training step for \d+ s; the last was step \d+\. The ranks, the most suspicious first:", what
    )
    return ranks


def line_of(text: str) -> int:
    """Find a line of the script."""
    lines = (SCRIPTS / "hangs.py").read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)
