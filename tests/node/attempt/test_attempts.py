"""Attempts of one run, with real agents: the same processes take part in the next, under one leader."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from horovod_node import contract
from support.node.emulated_aws import Aws
from support.node.rings import Ring, wait_for

pytestmark = pytest.mark.ring


def submit(ring: Ring, *, gpus: int) -> None:
    ring.submit(gpus=gpus, entry_point="count_steps.py")


def joined(ring: Ring, number: int, attempt: int) -> bool:
    """Tell whether a node takes part in an attempt."""
    return f"node-{number} joins attempt {attempt} of run {ring.run}" in ring.agents[number - 1].text()


@pytest.fixture
def pair(ring: Ring) -> Ring:
    """Two nodes that train; node 1 leads."""
    submit(ring, gpus=2)
    ring.start(nodes=2)
    ring.until_training()
    return ring


def test_leader_leads_the_next_attempt_in_the_same_process(pair: Ring) -> None:
    """A node of a static ring is lost: the leader says so, forms the ring with another, and goes on counting."""
    # GIVEN
    ledger = pair.aws.ledger()
    lease = ledger.lease(pair.fleet)
    assert lease is not None
    wait_for("trained seconds", lambda: ledger.progress(lease).get(contract.TRAINED_GPU_SECONDS))
    pair.agents[1].kill()
    failed = pair.answer(contract.TASK_TRAIN)
    assert failed["error"] == contract.ERROR_NODE_FAILED, failed
    assert pair.agents[0].left(pair.agents[0].process.pid) == [pair.agents[0].process.pid]
    before = ledger.progress(lease)
    # WHEN
    pair.begin_anew()
    pair.start(nodes=1)
    formed = pair.asked(contract.TASK_RING)
    # THEN
    assert formed[contract.LEADER][contract.NODE] == "node-1", formed
    assert [node[contract.NODE] for node in formed[contract.NODES]] == ["node-1", "node-3"]
    assert [joined(pair, number, 2) for number in (1, 3)] == [True, True]
    # WHEN
    pair.ask(contract.TASK_TRAIN)
    # THEN what was trained adds up, and the steps of the attempt that was lost are repeated
    spent = before[contract.TRAINED_GPU_SECONDS]
    after = wait_for(
        "more of it", lambda: (told := ledger.progress(lease))[contract.TRAINED_GPU_SECONDS] > spent and told
    )
    assert (after["repeated_steps"], after["at"] > before["at"]) == (before["step"], True)
    # WHEN
    pair.release()
    # THEN
    assert [pair.agents[number].exit_code() for number in (0, 2)] == [contract.EXIT_RELEASED] * 2
    assert [agent.left() for agent in pair.agents] == [[], [], []]


@pytest.mark.slow
def test_follower_takes_part_in_the_next_attempt_in_the_same_process(pair: Ring) -> None:
    """The leader is lost: its follower ends its rank, waits, and follows the next leader."""
    # GIVEN
    follower = pair.agents[1]
    pair.agents[0].kill()
    # The rank ends before the agent says why.
    wait_for("the follower's words", lambda: contract.ERROR_LEADER_LOST in follower.text())
    assert follower.left(follower.process.pid) == [follower.process.pid]
    # WHEN
    pair.begin_anew()
    pair.start(nodes=1, **{contract.ENV_NODE_MARKET: contract.ON_DEMAND})
    formed = pair.asked(contract.TASK_RING)
    # THEN
    assert [node[contract.NODE] for node in formed[contract.NODES]] == ["node-3", "node-2"], formed
    assert joined(pair, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["another run", "nobody"])
def test_agent_that_waits_for_the_next_attempt_leaves_with_the_lease(pair: Ring, what: str) -> None:
    """When the fleet goes to somebody else there is no next attempt: the exit code is that of the failure."""
    # GIVEN
    pair.agents[1].kill()
    assert pair.answer(contract.TASK_TRAIN)["error"] == contract.ERROR_NODE_FAILED
    # WHEN
    if what == "nobody":
        pair.release()
    else:
        pair.aws.put_lease(pair.fleet, run="another", attempt=2)
    # THEN
    assert pair.agents[0].exit_code() == contract.EXIT_NODE_FAILED
    assert not joined(pair, 1, 2)
    assert pair.agents[0].left() == []


def test_one_of_those_that_claim_the_lead_at_once_leads(ring: Ring) -> None:
    """Three nodes of the leader's market start together: one answers, and the others follow it."""
    # GIVEN
    submit(ring, gpus=3)
    # WHEN
    ring.start(nodes=3, **{contract.ENV_NODE_MARKET: contract.ON_DEMAND})
    ring.until_training()
    # THEN
    (output,) = [
        body["output"]
        for action, body, _ in ring.answers.calls
        if action == "SendTaskSuccess" and body["taskToken"] == ring.token(contract.TASK_RING)
    ]
    leader = ring.answer(contract.TASK_RING)[contract.LEADER][contract.NODE]
    assert f'"{leader}"' in output
    assert [f"{leader} leads" in agent.text() for agent in ring.agents] == [True] * 3
    assert ["answered 'ring'" in agent.text() for agent in ring.agents] == [agent.id == leader for agent in ring.agents]


def test_leader_that_was_asleep_leads_no_more(ring: Ring) -> None:
    """A leader that was stopped while the run began anew under another answers nothing, and follows that one."""
    # GIVEN
    submit(ring, gpus=1)
    ring.start(nodes=1)
    ring.until_training()
    asleep = ring.agents[0].processes()
    for process in asleep:
        os.kill(process, signal.SIGSTOP)
    # WHEN
    ring.answers.gone.add(ring.token(contract.TASK_TRAIN))
    ring.begin_anew()
    ring.start(nodes=1, **{contract.ENV_NODE_MARKET: contract.ON_DEMAND})
    assert ring.asked(contract.TASK_RING)[contract.LEADER][contract.NODE] == "node-2"
    ring.ask(contract.TASK_TRAIN)
    before = ring.agents[0].text().count("answered")
    for process in asleep:
        os.kill(process, signal.SIGCONT)
    # THEN
    wait_for("the first node in attempt 2", lambda: joined(ring, 1, 2))
    wait_for("its leader", lambda: "node-2 leads" in ring.agents[0].text() or len(ring.agents[0].processes()) == 1)
    wait_for(
        "heartbeats of the second leader", lambda: len(ring.answers.heartbeats(ring.token(contract.TASK_TRAIN))) > 2
    )
    assert ring.agents[0].text().count("answered") == before
    assert ring.answers.answer(ring.token(contract.TASK_TRAIN)) is None
    # WHEN
    ring.release()
    # THEN
    assert [agent.exit_code() for agent in ring.agents] == [contract.EXIT_RELEASED] * 2


def test_each_attempt_has_one_leader(aws: Aws) -> None:
    """Many nodes claim the lead of several attempts in a mix: of each attempt one leads, whoever asks and whenever."""
    # GIVEN
    leases = {}
    for attempt in range(1, 5):
        aws.put_lease("fleet", run="run-1", attempt=attempt)
        leases[attempt] = aws.ledger().lease("fleet")
    ledgers = [aws.ledger() for _ in range(16)]

    def claim(number: int) -> tuple[int, str]:
        attempt = 1 + number % 4
        lease = leases[attempt]
        assert lease is not None
        return attempt, ledgers[number % 16].claim_leader(lease, f"node-{number}", remove_at=0)

    # WHEN
    with ThreadPoolExecutor(16) as threads:
        claims = list(threads.map(claim, range(64)))
    # THEN
    leaders = {attempt: {leader for each, leader in claims if each == attempt} for attempt in leases}
    assert [len(names) for names in leaders.values()] == [1, 1, 1, 1]
    assert len(set().union(*leaders.values())) == 4


def test_what_could_not_be_fetched_is_fetched_again(ring: Ring) -> None:
    """A node whose data could not be written in one attempt tries again in the next."""
    # GIVEN a folder where a file must go
    submit(ring, gpus=1)
    in_the_way = ring.folder / "node-1" / "input" / "data" / "train" / "digits.npz"
    in_the_way.mkdir(parents=True)
    ring.start(nodes=1)
    failed = ring.asked(contract.TASK_RING)
    assert failed["error"] == contract.ERROR_NODE_FAILED, failed
    # WHEN
    in_the_way.rmdir()
    ring.begin_anew()
    # THEN
    assert ring.asked(contract.TASK_RING).get(contract.GPUS) == 1, ring.log()
