"""Plain `horovod.torch` scripts: steps are counted, rings train equal weights, lose nodes, and hangs are named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horovod_node import contract
from horovod_node.rank_process.progress import Progress
from support.node.plain_horovod import cpu_environment, run_on_two_ranks
from support.node.rings import SCRIPTS, SETTINGS, Ring

pytestmark = [pytest.mark.slow, pytest.mark.ring]

COMMIT_EVERY = 5


def counted(python: str, *arguments: str) -> dict[str, Any]:
    """Train in every way, or in one, and give what the counter saw."""
    ended = subprocess.run(
        [python, str(SCRIPTS / "torch_steps.py"), *arguments],
        env=cpu_environment(python),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    seen: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return seen


def test_steps_of_every_optimizer_are_counted(python: str, tmp_path: Path) -> None:
    """Each step once, Horovod's optimizer and its broadcast of states included, and none when nothing trains."""
    # WHEN
    seen = counted(python, str(tmp_path / "progress"))
    # THEN
    assert seen.pop("untouched")
    seen.pop("graphs")
    compiled = seen.pop("compiled")
    assert seen == {
        how: {"step": 3, "advanced": True, "still": True}
        for how in ("plain", "distributed", "synchronized", "closure", "failing")
    }
    assert compiled == {"step": 3, "advanced": False, "still": True}
    progress = Progress.read(tmp_path / "progress")
    assert (progress.step, progress.advances) == (3, 5)


def test_hooks_add_nothing_to_a_compiled_step(python: str, tmp_path: Path) -> None:
    """The graphs of a step that is compiled are those without hooks, and that it goes on is seen all the same."""
    # WHEN
    hooked, bare = counted(python, str(tmp_path / "progress"), "compiled"), counted(python)
    # THEN
    assert bare["graphs"] != []
    assert hooked["graphs"] == bare["graphs"]
    assert hooked["compiled"] == {"step": 0, "advanced": True, "still": True}


@pytest.mark.parametrize(("alone", "equal"), [(False, True), (True, False)])
def test_only_horovod_makes_weights_equal(python: str, digits: Path, tmp_path: Path, alone: bool, equal: bool) -> None:
    """Under bare horovodrun: what ranks with other data come to is the same because of the averaging, and only then."""
    # GIVEN
    script = tmp_path / "script.py"
    words = ["--alone", "1"] if alone else []
    script.write_text(
        f"import runpy, sys\nsys.argv[1:] = {words}\nrunpy.run_path({str(SCRIPTS / 'torch_digits.py')!r})"
    )
    # WHEN
    ended = run_on_two_ranks(
        script,
        python=python,
        environment=cpu_environment(python, SM_CHANNEL_TRAIN=str(digits), SM_MODEL_DIR=str(tmp_path)),
    )
    # THEN
    assert ended.returncode == 0, ended.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["ranks"] == 2
    assert facts["difference"] == 0.0 if equal else facts["difference"] > 0.001


def test_ring_trains_equal_weights_and_leaves_the_model(ring: Ring, python: str) -> None:
    """Two nodes train one model with equal weights and store it; the worker leaves, and the leader when released."""
    # GIVEN
    ring.submit(steps=30, entry_point="torch_digits.py")
    # WHEN
    ring.start(nodes=2, python=python)
    ring.begin()
    trained = ring.end()
    # THEN
    assert (trained["ranks"], trained["steps"]) == (2, 30)
    facts = ring.facts()
    assert (facts["ranks"], facts["difference"]) == (2, 0.0)
    assert ring.agents[1].exit_code() == contract.EXIT_PART_OVER
    # WHEN
    ring.release()
    # THEN
    assert ring.agents[0].exit_code() == contract.EXIT_RELEASED
    assert [agent.left() for agent in ring.agents] == [[], []]


def test_ring_fails_with_the_first_ranks_own_traceback(ring: Ring, python: str) -> None:
    """An exception on rank 1 takes rank 0 down; the cause is the exception, with rank, node, address and exit code."""
    # GIVEN
    ring.submit(do="raise", rank=1, entry_point="torch_digits.py")
    # WHEN
    ring.start(nodes=2, python=python)
    ring.asked(contract.TASK_RING)
    failed = ring.asked(contract.TASK_TRAIN)
    # THEN
    first, *rest = failed["cause"].splitlines()
    assert failed["error"] == contract.ERROR_TRAINING_FAILED
    assert first == (
        f"Rank 1 on node-2 ({ring.agents[1].address}) ended with exit code 1: ValueError: the digits are upside down"
    )
    assert rest[-1] == "ValueError: the digits are upside down"
    assert [agent.left() for agent in ring.agents] == [[], []]


def test_ring_that_stands_still_names_the_rank_and_its_line(ring: Ring, python: str) -> None:
    """Rank 1 sleeps for ever: the run fails as stalled, naming it first with its line, and rank 0 in its `step()`."""
    # GIVEN
    settings = replace(SETTINGS, heartbeat_seconds=12, stall_seconds=10)
    ring.submit(settings=settings, do="sleep", rank=1, at_step=10, steps=100, entry_point="torch_digits.py")
    # WHEN
    ring.start(nodes=2, python=python)
    ring.asked(contract.TASK_RING)
    failed = ring.asked(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_TRAINING_STALLED
    first, second, third = failed["cause"].splitlines()
    assert first.endswith("the last was step 10. The ranks, the most suspicious first:")
    assert second.startswith(f"rank 1 on node-2 ({ring.agents[1].address}), step 10: in torch_digits.py:")
    assert second.endswith("in wait_for_ever")
    assert third.startswith(
        f"rank 0 on node-1 ({ring.agents[0].address}), step 10: inside a call from torch_digits.py:"
    )
    assert [agent.left() for agent in ring.agents] == [[], []]


def test_rank_that_was_stopped_is_named_though_it_cannot_answer(ring: Ring, python: str) -> None:
    """After SIGSTOP to a rank the run fails as stalled, naming that rank first."""
    # GIVEN
    settings = replace(SETTINGS, heartbeat_seconds=12, stall_seconds=10)
    ring.submit(settings=settings, steps=1_000_000, entry_point="torch_digits.py")
    ring.start(nodes=2, python=python)
    ring.until_training()
    # WHEN
    os.kill(ring.agents[1].rank(), signal.SIGSTOP)
    failed = ring.answer(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_TRAINING_STALLED
    _, second, third = failed["cause"].splitlines()
    assert second.startswith(f"rank 1 on node-2 ({ring.agents[1].address}), step ")
    assert second.endswith(": does not answer, its process is stopped or hangs inside the kernel")
    assert third.startswith("rank 0 on node-1 (")


def submit_elastic(ring: Ring, *, gpus: int = 3, min_gpus: int = 1, **hyperparameters: object) -> None:
    ring.submit(
        gpus=gpus,
        min_gpus=min_gpus,
        entry_point="torch_elastic.py",
        commit_every=COMMIT_EVERY,
        **hyperparameters,
    )


def repeated(ring: Ring) -> int:
    """Count the steps that the leader's node took more than once."""
    taken = ring.agents[0].steps()
    return len(taken) - len(set(taken))


def test_killed_node_costs_at_most_one_commit(ring: Ring, python: str) -> None:
    """One of three nodes dies in mid-training: the other two go on from the last commit of their `TorchState`."""
    # GIVEN
    submit_elastic(ring, steps=60)
    ring.start(nodes=3, python=python)
    ring.begin()
    ring.agents[0].until_step(12)
    # WHEN
    ring.agents[2].kill()
    # THEN
    trained = ring.end()
    assert trained["ranks"] == 2
    assert (trained["ring"]["resets"], trained["ring"]["smallest"]) == (1, 2)
    assert repeated(ring) <= COMMIT_EVERY
    assert sorted(set(ring.agents[0].steps())) == list(range(1, 61))
    facts = ring.facts()
    assert (facts["size"], facts["steps"], facts["difference"]) == (2, 60, 0.0)


def test_rank_that_dies_is_replaced_on_its_own_node(ring: Ring, python: str) -> None:
    """A rank that is killed costs its node a pause, and comes back with the others' weights."""
    # GIVEN
    submit_elastic(ring, gpus=2, steps=40, die_at_step=10, until_size=2)
    # WHEN
    ring.start(nodes=2, python=python)
    ring.begin()
    # THEN
    assert ring.end()["ranks"] == 2
    assert repeated(ring) <= COMMIT_EVERY
    assert {entry["size"] for entry in ring.agents[0].journal("step")} == {1, 2}
    assert ring.facts()["difference"] == 0.0


def test_node_that_comes_later_is_taken_in(ring: Ring, python: str) -> None:
    """A ring begins with what there is, and grows when another node comes, without a step done twice."""
    # GIVEN
    submit_elastic(ring, min_gpus=2, steps=40, until_size=3)
    ring.start(nodes=2, python=python)
    ring.begin()
    ring.agents[0].until_step(5)
    # WHEN
    ring.start(nodes=1, python=python)
    # THEN
    assert ring.end()["ranks"] == 3
    assert repeated(ring) == 0
    assert (ring.facts()["size"], ring.facts()["difference"]) == (3, 0.0)
