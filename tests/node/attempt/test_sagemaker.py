"""Agents as the containers of a SageMaker training job: how they find their run, and how the job ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from horovod_local.instances import opt_ml
from horovod_node import contract
from horovod_node.agent import Agent
from horovod_node.checkpoints.manifest import complete_checkpoints
from horovod_node.ledger.ledger import Ledger
from horovod_node.node.conduct import STOP_SECONDS, StaysWithItsJob
from horovod_node.node.identity import Node
from support.node.emulated_aws import Aws
from support.node.platforms import TrainingJob
from support.node.rings import Ring, wait_for

pytestmark = [
    pytest.mark.ring,
    pytest.mark.skipif(bool(opt_ml.unavailable_reason()), reason="this machine permits no mount namespaces"),
]

BY_HEART = """
import horovod.tensorflow as hvd
from pathlib import Path
from horovod_node import steps

hvd.init()
opt_ml = Path("/opt/ml")
assert (opt_ml / "input/data/train/digits.npz").exists()
(opt_ml / "checkpoints/step").write_text("1")
steps.report(1)
if hvd.rank() == 0:
    (opt_ml / "model/facts.json").write_text('{"size": %d}' % hvd.size())
hvd.allgather_object(0)
"""
"""A script that knows SageMaker's paths by heart."""

FAILS = """
import horovod.tensorflow as hvd
from horovod_node import steps

hvd.init()
steps.report(1)
if hvd.rank() == 1:
    raise ValueError("the digits are upside down. " + 200 * "Turn them. ")
hvd.allgather_object(0)
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A folder with both scripts."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "by_heart.py").write_text(BY_HEART)
    (folder / "fails.py").write_text(FAILS)
    return folder


def test_job_completes_when_its_run_is_over(ring: Ring, scripts: Path) -> None:
    """Workers are there until the lease is gone, as SageMaker may end a job with its first container; all ends well."""
    # GIVEN
    ring.submit(gpus=2, entry_point="by_heart.py", scripts=scripts)
    job = TrainingJob(ring, hosts=2)
    formed = ring.begin()
    assert ring.end()["ranks"] == 2
    # WHEN
    facts = ring.facts()
    # THEN
    assert facts == {"size": 2}
    assert {node[contract.INSTANCE_TYPE] for node in formed[contract.NODES]} == {"ml.g5.xlarge"}
    (checkpoint,) = complete_checkpoints(ring.aws.client("s3"), bucket=ring.aws.model_bucket, run_id=ring.run_id)
    assert checkpoint.attempt == 1
    wait_for("the workers' end of work", lambda: ring.log().count("waiting: attempt 1 of run") == 1)
    assert [agent.process.poll() for agent in job.agents] == [None, None]
    # WHEN
    ring.release()
    # THEN
    assert job.exit_codes() == [contract.EXIT_OK, contract.EXIT_OK], ring.log()
    assert job.reasons() == [None, None]
    # AND what is billed to the end has not left, and is named after the job
    items = ring.aws.client("dynamodb").scan(TableName=ring.aws.table)["Items"]
    nodes = [item for item in items if item[contract.SORT_KEY]["S"].startswith(contract.NODE_PREFIX)]
    assert [(node[contract.CONTAINER]["S"], contract.LEFT_AT in node) for node in nodes] == [("horovod-1", False)] * 2
    # AND nothing is left for SageMaker to upload once more
    assert [sorted(path.name for path in folder.glob("[mo]*/**/*")) for folder in job.folders] == [["data"]] * 2


def test_job_that_is_stopped_after_its_run_has_not_failed(ring: Ring, scripts: Path) -> None:
    """The workflow stops the job before it gives the lease back."""
    # GIVEN
    ring.submit(gpus=1, entry_point="by_heart.py", scripts=scripts)
    job = TrainingJob(ring, hosts=1)
    ring.begin()
    ring.end()
    ring.facts()
    # WHEN
    job.agents[0].process.send_signal(signal.SIGTERM)
    # THEN
    assert job.exit_codes() == [contract.EXIT_OK], ring.log()
    assert job.reasons() == [None]


def test_every_container_gives_the_root_cause(ring: Ring, scripts: Path) -> None:
    """A script fails on one host: whichever container's reason SageMaker takes, it is that one, as much as fits."""
    # GIVEN
    ring.submit(gpus=2, entry_point="fails.py", scripts=scripts)
    job = TrainingJob(ring, hosts=2)
    ring.begin()
    # WHEN
    failed = ring.answer(contract.TASK_TRAIN)
    # THEN the job is there until the run has moved on
    assert failed["error"] == contract.ERROR_TRAINING_FAILED
    wait_for("both", lambda: ring.log().count("waiting: attempt 1 of run") == 2)
    assert [agent.process.poll() for agent in job.agents] == [None, None]
    # WHEN
    ring.release()
    # THEN
    assert 0 not in job.exit_codes()
    one, other = job.reasons()
    assert one == other
    assert one is not None
    assert one.startswith("TrainingFailed: Rank 1 on ")
    assert "ended with exit code 1: ValueError: the digits are upside down." in one
    assert 1000 < len(one) <= 1024


def test_survivor_of_an_earlier_job_stays_out_of_the_next_attempt(ring: Ring) -> None:
    """A job is for one attempt: its containers leave with it, those that start late too."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py")
    first = TrainingJob(ring, hosts=1)
    ring.until_training()
    # WHEN
    ring.begin_anew()
    late, second = TrainingJob(ring, hosts=1, attempt=1), TrainingJob(ring, hosts=1)
    formed = ring.asked(contract.TASK_RING)
    # THEN
    assert [node[contract.ADDRESS] for node in formed[contract.NODES]] == second.hosts
    assert first.exit_codes() == late.exit_codes() == [contract.EXIT_RELEASED]
    assert late.reasons() == ["No attempt needs this job any more."]
    assert "joins attempt 2" not in first.agents[0].text() + late.agents[0].text()


def test_stopped_job_leaves_its_last_checkpoint(ring: Ring) -> None:
    """All containers are told to stop at once, but the others' ranks go on while rank 0 writes what it has."""
    # GIVEN
    ring.submit(gpus=2, steps=1_000_000)
    job = TrainingJob(ring, hosts=2)
    ring.until_training()
    # WHEN
    for agent in job.agents:
        agent.process.send_signal(signal.SIGTERM)
    failed = ring.answer(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_NODE_FAILED
    assert "was told to stop: the training was stopped first, and can resume from its newest check" in failed["cause"]
    assert 0 not in job.exit_codes()
    (checkpoint,) = complete_checkpoints(ring.aws.client("s3"), bucket=ring.aws.model_bucket, run_id=ring.run_id)
    kept = ring.aws.client("s3").get_object(Bucket=ring.aws.model_bucket, Key=checkpoint.file_key("step"))
    assert int(kept["Body"].read()) > 0
    assert "was told to stop" in " ".join(reason or "" for reason in job.reasons())


def test_job_that_is_stopped_when_nobody_asks_any_more_ends_at_once(ring: Ring) -> None:
    """The training's time was over, so its token is gone: no container waits for another one."""
    # GIVEN
    ring.submit(gpus=2, steps=1_000_000)
    job = TrainingJob(ring, hosts=2)
    ring.until_training()
    ring.answers.gone.add(ring.token(contract.TASK_TRAIN))
    # WHEN
    for agent in job.agents:
        agent.process.send_signal(signal.SIGTERM)
    # THEN
    wait_for("the end", lambda: all(agent.process.poll() is not None for agent in job.agents), seconds=STOP_SECONDS / 2)
    assert 0 not in job.exit_codes()
    # The leader's reason is the root cause; a follower that left before it knows only that its ring was lost.
    assert "was told to stop" in " ".join(reason or "" for reason in job.reasons())


def test_job_that_cannot_reach_the_ledger_says_so(aws: Aws, node: Node, tmp_path: Path) -> None:
    """What keeps a container from its run is the job's FailureReason."""
    # GIVEN
    (tmp_path / "output").mkdir()
    away = Ledger(aws.client("dynamodb"), table="no-such-table", patience_seconds=0)
    conduct = StaysWithItsJob(run_id="a/b/c", attempt=1, ml_root=node.ml_root, opt_ml=tmp_path)
    # WHEN
    code = Agent(
        node, ledger=away, s3=aws.client("s3"), stepfunctions=aws.client("stepfunctions"), conduct=conduct
    ).take_part()
    # THEN
    assert code == contract.EXIT_NODE_FAILED
    assert (tmp_path / "output" / "failure").read_text().startswith("NodeFailed: The node agent failed: Resource")


def test_job_that_is_told_nothing_by_its_environment_fails_with_a_sentence(ring: Ring) -> None:
    """What a container lacks is the job's FailureReason."""
    # GIVEN
    ring.submit(gpus=1)
    # WHEN
    job = TrainingJob(ring, hosts=1, **{contract.ENV_NODE_MARKET: "flea"})
    # THEN
    assert job.exit_codes() == [contract.EXIT_USAGE]
    assert job.reasons() == [f"'{contract.ENV_NODE_MARKET}' must be one of on-demand, spot, got 'flea'"]
