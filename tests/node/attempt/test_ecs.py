"""Agents as tasks of ECS, which starts a task again as soon as it ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from horovod_local.instances import opt_ml, private_mount
from horovod_node import contract
from horovod_node.ledger.ledger import NodeItem
from support.node.platforms import AGENT, EcsInstance
from support.node.rings import Ring, wait_for

pytestmark = pytest.mark.ring


@pytest.fixture
def instances(ring: Ring) -> Iterator[list[EcsInstance]]:
    """Two instances of the ring's fleet."""
    with ExitStack() as services:
        yield [EcsInstance(ring, number, open_until=services) for number in (1, 2)]


def item(ring: Ring, instance: EcsInstance) -> NodeItem:
    """Read what the instance's agent has said of itself in the ring's attempt."""
    ledger = ring.aws.ledger()
    lease = ledger.lease(ring.fleet)
    assert lease is not None
    node = ledger.node(lease, instance.id)
    assert node is not None
    return node


def test_agent_that_was_killed_is_back_for_the_next_attempt(ring: Ring, instances: list[EcsInstance]) -> None:
    """A follower is killed and started again: it stays out of the attempt that it broke, and takes part in the next."""
    # GIVEN
    ring.submit(gpus=2, entry_point="count_steps.py")
    leader, follower = (instance.start_task() for instance in instances)
    ring.until_training()
    # WHEN
    restarted = instances[1].replace_task(follower)
    instances[1].waits(restarted)
    before = item(ring, instances[1])
    failed = ring.answer(contract.TASK_TRAIN)
    # THEN the leader is not told that all is well again
    assert failed["error"] == contract.ERROR_NODE_FAILED, failed
    assert item(ring, instances[1]) == before
    # WHEN
    ring.begin_anew()
    formed = ring.asked(contract.TASK_RING)
    # THEN
    assert [node[contract.NODE] for node in formed[contract.NODES]] == ["i-1", "i-2"], formed
    assert [agent.process.poll() for agent in (leader, restarted)] == [None, None]


def test_leader_that_failed_does_not_lead_again(ring: Ring, instances: list[EcsInstance]) -> None:
    """Its agent waits instead of ending, and so does the next one on the instance: the failure stays what it was."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py", steps=3, end="exit")
    agent = instances[0].start_task()
    ring.asked(contract.TASK_RING)
    assert ring.asked(contract.TASK_TRAIN)["error"] == contract.ERROR_TRAINING_FAILED
    instances[0].waits(agent)
    failed = item(ring, instances[0])
    assert failed.state == contract.NODE_FAILED
    # WHEN
    restarted = instances[0].replace_task(agent)
    instances[0].waits(restarted)
    # THEN
    assert item(ring, instances[0]) == failed
    assert "leads" not in restarted.text()
    # WHEN
    restarted.process.send_signal(signal.SIGTERM)
    # THEN
    assert restarted.exit_code() == contract.EXIT_OK


def test_another_run_is_begun_by_another_process(ring: Ring, instances: list[EcsInstance]) -> None:
    """An agent ends when its instance comes to another run, and the one that ECS starts then takes part."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py", steps=3, end="exit")
    agent = instances[0].start_task()
    ring.asked(contract.TASK_RING)
    ring.asked(contract.TASK_TRAIN)
    instances[0].waits(agent)
    # WHEN
    ring.run = f"{ring.run}-again"
    ring.submit(gpus=1, entry_point="count_steps.py")
    # THEN
    assert agent.exit_code() == contract.EXIT_TRAINING_FAILED
    # WHEN
    instances[0].start_task()
    # THEN
    assert ring.asked(contract.TASK_RING).get(contract.GPUS) == 1, ring.log()


def test_instance_of_a_worker_is_told_that_its_part_is_over(ring: Ring, instances: list[EcsInstance]) -> None:
    """While the leader saves the model, the worker's agent waits for its instance's end; the leader's is needed."""
    # GIVEN
    ring.submit(gpus=2, entry_point="count_steps.py", steps=20, model_bytes=1000)
    agents = [instance.start_task() for instance in instances]
    ring.begin()
    assert ring.end()["ranks"] == 2
    # WHEN
    saved = ring.asked(contract.TASK_SAVE)
    # THEN
    assert saved["files"] == 1
    wait_for("the worker's word", instances[1].part_over.exists)
    assert not instances[0].part_over.exists()
    assert [agent.process.poll() for agent in agents] == [None, None]


def test_interruption_is_noticed(ring: Ring, instances: list[EcsInstance]) -> None:
    """An instance of ECS is an EC2 instance: its agent hears of its end, and takes part in no further attempt."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py")
    agent = instances[1].start_task()
    ring.until_training()
    # WHEN
    instances[1].metadata.metadata.announce_termination(2_000_000_000)
    wait_for("the notice", lambda: item(ring, instances[1]).interruption == contract.INTERRUPTION_NOTICE)
    ring.begin_anew()
    # THEN
    instances[1].waits(agent)


@pytest.mark.skipif(bool(opt_ml.unavailable_reason()), reason="this machine permits no mount namespaces")
def test_environment_comes_from_the_instance(ring: Ring, instances: list[EcsInstance], tmp_path: Path) -> None:
    """The task definition is one text for all instances: what user data wrote on this one is mounted."""
    # GIVEN
    instance, folder = instances[0], tmp_path / "cdk-horovod"
    folder.mkdir()
    lines = {
        contract.ENV_ENGINE: contract.ENGINE_ECS,
        contract.ENV_FLEET: "fleet-of-the-file",
        contract.ENV_METADATA_ENDPOINT: instance.metadata.endpoint,
        contract.ENV_NODE_INTERFACE: "lo",
        contract.ENV_NODE_GPUS: "1",
    }
    (folder / "node.env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    mounted = [sys.executable, str(private_mount.__file__), str(Path(contract.NODE_ENV_FILE).parent), str(folder)]
    # WHEN there is no lease
    agent = ring.launch([*mounted, *AGENT], name=instance.id, address=instance.address)
    # THEN what the task sets itself counts more
    wait_for("its fleet", lambda: f"waiting: nobody holds fleet {ring.fleet}" in agent.text())
