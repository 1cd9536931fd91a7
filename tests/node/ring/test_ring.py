"""Real agents, real ranks, real Horovod, a real model of real digits."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import tarfile
from dataclasses import replace

import pytest

from horovod_node import contract
from support.node.rings import SETTINGS, Ring, wait_for

pytestmark = pytest.mark.ring

STALL_NOTICE_SECONDS = 40
"""What docs/environment.md promises: a run fails so long after its ranks stood still for too long."""


def test_ring_trains_equal_weights_and_leaves_the_model(ring: Ring) -> None:
    """Two nodes train one model with equal weights and store it; the worker leaves, and the leader when released."""
    # GIVEN
    ring.submit(steps=30)
    # WHEN
    ring.start(nodes=2)
    formed = ring.asked(contract.TASK_RING)
    trained = ring.asked(contract.TASK_TRAIN)
    saved = ring.asked(contract.TASK_SAVE)
    # THEN
    assert [formed["leader"], formed["gpus"]] == [{"node": "node-1", "gpus": 1}, 2]
    assert [node["node"] for node in formed["nodes"]] == ["node-1", "node-2"]
    assert (trained["ranks"], trained["steps"]) == (2, 30)
    archive = ring.aws.client("s3").get_object(Bucket=ring.aws.model_bucket, Key=contract.model_key(ring.run_id))
    assert saved == {"key": contract.model_key(ring.run_id), "bytes": archive["ContentLength"], "files": 2}
    with tarfile.open(fileobj=io.BytesIO(archive["Body"].read()), mode="r:gz") as tar:
        assert sorted(tar.getnames()) == ["model.keras", "proof.json"]
        proof = json.load(tar.extractfile("proof.json") or io.StringIO())
    assert proof["ranks"] == 2
    assert proof["difference"] == 0.0
    assert proof["norm"] > 0
    assert proof["arguments"] == ["--steps", "30"]
    # AND the other node left when the model was being saved
    assert ring.agents[1].exit_code() == contract.EXIT_PART_OVER
    # WHEN
    ring.release()
    # THEN
    assert ring.agents[0].exit_code() == contract.EXIT_RELEASED
    assert [agent.left() for agent in ring.agents] == [[], []]


def test_ring_fails_with_the_first_ranks_own_traceback(ring: Ring) -> None:
    """An exception on rank 1 takes rank 0 down; the cause is the exception, with rank, node, address and exit code."""
    # GIVEN
    ring.submit(do="raise", rank=1)
    # WHEN
    ring.start(nodes=2)
    ring.asked(contract.TASK_RING)
    failed = ring.asked(contract.TASK_TRAIN)
    # THEN
    first, *rest = failed["cause"].splitlines()
    assert failed["error"] == contract.ERROR_TRAINING_FAILED
    assert first == (
        f"Rank 1 on node-2 ({ring.agents[1].address}) ended with exit code 1: ValueError: the digits are upside down"
    )
    assert rest[1] == "Traceback (most recent call last):"
    assert 'train_digits.py", line' in rest[2]
    assert rest[-1] == "ValueError: the digits are upside down"
    assert "[1] rank 1 does 'raise'\n" in ring.agents[1].text()
    assert [agent.exit_code() for agent in ring.agents] == [contract.EXIT_TRAINING_FAILED] * 2
    assert [agent.left() for agent in ring.agents] == [[], []]
    failure = (ring.agents[1].ml_root / "output" / "failure").read_text()
    assert failure == f"{contract.ERROR_TRAINING_FAILED}: {failed['cause']}\n"


def test_ring_says_that_a_rank_ended_too_early(ring: Ring) -> None:
    """A rank that ends well while others train on is named, though none of them failed by itself."""
    # GIVEN
    ring.submit(do="leave", rank=1)
    # WHEN
    ring.start(nodes=2)
    ring.asked(contract.TASK_RING)
    failed = ring.asked(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_TRAINING_FAILED
    assert failed["cause"].startswith("Rank 0 on node-1")
    assert "lost the other ranks" in failed["cause"]
    assert "Ranks that had ended with exit code 0 before: 1." in failed["cause"]


def test_ring_that_stands_still_names_the_rank_and_its_line(ring: Ring) -> None:
    """Rank 1 sleeps for ever: the run fails as stalled, naming it first, and heartbeats end with the steps."""
    # GIVEN
    settings = replace(SETTINGS, heartbeat_seconds=12, stall_seconds=10)
    ring.submit(settings=settings, do="sleep", rank=1, at_step=10)
    # WHEN
    ring.start(nodes=2)
    ring.asked(contract.TASK_RING)
    failed = ring.asked(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_TRAINING_STALLED
    first, second, third = failed["cause"].splitlines()
    assert first.endswith("the last was step 10. The ranks, the most suspicious first:")
    assert second.startswith(f"rank 1 on node-2 ({ring.agents[1].address}), step 10: in train_digits.py:")
    assert second.endswith("in wait_for_ever")
    # Inside a tf.function the step that waits for the ring may be counted already.
    waiting = (
        rf"rank 0 on node-1 \({ring.agents[0].address}\), step 1[01]: inside a call from train_digits.py:\d+ in .*"
    )
    assert re.fullmatch(waiting, third)
    assert [agent.exit_code() for agent in ring.agents] == [contract.EXIT_TRAINING_FAILED] * 2
    told = len(ring.answers.heartbeats(ring.token(contract.TASK_TRAIN)))
    assert told > 0
    assert [agent.left() for agent in ring.agents] == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_rank_that_was_stopped_is_named_though_it_cannot_answer(ring: Ring, stopped: int) -> None:
    """After SIGSTOP to a rank the run fails within the documented bound, naming that rank first, wherever it runs."""
    # GIVEN
    settings = replace(SETTINGS, heartbeat_seconds=12, stall_seconds=10)
    ring.submit(settings=settings, steps=100_000)
    ring.start(nodes=2)
    ring.until_training()
    agent = ring.agents[stopped]
    # WHEN
    os.kill(agent.rank(), signal.SIGSTOP)
    failed = ring.answer(contract.TASK_TRAIN, seconds=settings.stall_seconds + STALL_NOTICE_SECONDS)
    # THEN
    assert failed["error"] == contract.ERROR_TRAINING_STALLED
    first, second, third = failed["cause"].splitlines()
    step = re.search(r"the last was step (\d+)\.", first)
    assert step
    assert second == (
        f"rank {stopped} on {agent.id} ({agent.address}), step {step[1]}: "
        "does not answer, its process is stopped or hangs inside the kernel"
    )
    assert third.startswith(f"rank {1 - stopped} on {ring.agents[1 - stopped].id} (")
    assert ": inside a call from train_digits.py:" in third
    assert [each.exit_code() for each in ring.agents] == [contract.EXIT_TRAINING_FAILED] * 2
    assert [each.left() for each in ring.agents] == [[], []]


@pytest.mark.slow
def test_ring_that_never_steps_is_found_out(ring: Ring) -> None:
    """Rank 1 sleeps before its first step: the limit for the first step ends the run, naming the rank."""
    # GIVEN
    settings = replace(SETTINGS, first_step_seconds=30)
    ring.submit(settings=settings, do="sleep", rank=1, at_step=0)
    ring.start(nodes=2)
    ring.asked(contract.TASK_RING)
    ring.ask(contract.TASK_TRAIN)
    # WHEN
    failed = ring.answer(contract.TASK_TRAIN, seconds=settings.first_step_seconds + STALL_NOTICE_SECONDS)
    # THEN
    assert failed["error"] == contract.ERROR_TRAINING_STALLED
    first, second, *_ = failed["cause"].splitlines()
    assert first.endswith("; not even the first came. The ranks, the most suspicious first:")
    assert second.startswith(f"rank 1 on node-2 ({ring.agents[1].address}), step 0: in train_digits.py:")
    assert second.endswith(" in wait_for_ever")


@pytest.mark.slow
def test_leader_that_is_killed_takes_all_ranks_along(ring: Ring) -> None:
    """After SIGKILL to the leader's agent no rank of any node is left, nor any agent."""
    # GIVEN
    ring.submit(steps=100_000)
    ring.start(nodes=2)
    ring.until_training()
    # WHEN
    ring.agents[0].process.send_signal(signal.SIGKILL)
    # THEN
    wait_for("the end of the leader's ranks", lambda: not ring.agents[0].processes())
    assert ring.agents[1].exit_code() == contract.EXIT_TRAINING_FAILED
    assert ring.agents[1].left() == []
    assert ring.answers.answer(ring.token(contract.TASK_TRAIN)) is None


@pytest.mark.slow
def test_follower_that_is_killed_is_the_reason(ring: Ring) -> None:
    """After SIGKILL to a follower's agent the cause is that node, not what the other ranks said of their ring."""
    # GIVEN
    ring.submit(steps=100_000)
    ring.start(nodes=2)
    ring.until_training()
    # WHEN
    ring.agents[1].process.send_signal(signal.SIGKILL)
    failed = ring.answer(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_NODE_FAILED
    assert failed["cause"].startswith(
        f"Node node-2 ({ring.agents[1].address}, g5.xlarge, spot, us-east-1a) with rank 1 is gone: "
    )
    assert ring.agents[0].exit_code() == contract.EXIT_NODE_FAILED
    assert [agent.left() for agent in ring.agents] == [[], []]
