"""The leader renews its run's lease, and nobody else's."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from horovod_node import contract
from horovod_node.agent import elect
from horovod_node.attempt.lease_renewal import LeaseRenewal, renewal_seconds
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.attempt.task import Task
from horovod_node.ledger.ledger import Lease
from horovod_node.node.errors import ReleasedError
from support.node.emulated_aws import Aws, TaskAnswers
from support.node.rings import SETTINGS
from support.waiting import eventually


@pytest.fixture
def leader(work: NodeAttempt) -> Membership:
    """The standing of a node that leads and is asked for an answer."""
    membership = Membership(work)
    membership.lead()
    membership.is_asked = True
    return membership


def lease_of(work: NodeAttempt) -> Lease:
    lease = work.ledger.lease(work.node.fleet)
    assert lease is not None
    return lease


def test_leader_renews_the_lease(aws: Aws, work: NodeAttempt, leader: Membership) -> None:
    """From then on it is valid for as long as the settings say, whatever it was before."""
    # GIVEN
    aws.put_lease(work.node.fleet, run="run-1", seconds=2)
    # WHEN
    before = int(time.time())
    leader.keep()
    after = int(time.time())
    # THEN
    seconds = work.run.settings.lease_seconds
    assert before + seconds <= lease_of(work).expires_at <= after + seconds


def test_lease_ends_with_the_questions(aws: Aws, work: NodeAttempt, leader: Membership, answers: TaskAnswers) -> None:
    """A stopped execution asks nothing any more: its leader leaves the lease to expire, until it is asked again."""
    # GIVEN a leader that was asked for the training, until the execution was stopped
    beating = replace(work, run=replace(work.run, settings=replace(work.run.settings, heartbeat_seconds=1)))
    task = Task(beating, leader, name=contract.TASK_TRAIN)
    key = contract.task_key(work.node.fleet, work.lease.run_id, 1, contract.TASK_TRAIN)
    aws.put(key, **{contract.TOKEN: "first"})
    answers.gone.add("first")
    eventually(lambda: (task.heartbeat(), answers.calls)[1])
    # WHEN
    aws.put_lease(work.node.fleet, run="run-1", expires_at=1_000)
    leader.keep()
    # THEN
    assert lease_of(work).expires_at == 1_000
    # WHEN
    aws.put(key, **{contract.TOKEN: "second"})

    def renewed() -> bool:
        task.heartbeat()
        leader.keep()
        return lease_of(work).expires_at > time.time()

    # THEN
    assert eventually(renewed)
    # WHEN the second question is answered
    task.succeed({})
    # THEN
    assert not leader.is_asked


def test_follower_renews_nothing(aws: Aws, work: NodeAttempt) -> None:
    """A run without its leader must not live on."""
    # GIVEN
    aws.put_lease(work.node.fleet, run="run-1", expires_at=1_000)
    # WHEN
    Membership(work).keep()
    # THEN
    assert lease_of(work).expires_at == 1_000


def test_lease_is_not_renewed_more_often_than_needed(aws: Aws, work: NodeAttempt, leader: Membership) -> None:
    """However often the loop turns, one renewal in a fifth of its time is enough."""
    # GIVEN
    leader.keep()
    aws.put_lease(work.node.fleet, run="run-1", expires_at=2_000_000_000)
    # WHEN
    for _ in range(20):
        leader.keep()
    # THEN
    assert lease_of(work).expires_at == 2_000_000_000


def test_lease_of_another_holder_stays_as_it_is(aws: Aws, work: NodeAttempt, leader: Membership) -> None:
    """A leader whose fleet was reclaimed leaves, and keeps its hands off."""
    # GIVEN
    aws.put(
        contract.lease_key(work.node.fleet), **{contract.RUN: contract.CLEAN_UP, contract.EXPIRES_AT: 2_000_000_000}
    )
    # WHEN
    with pytest.raises(ReleasedError, match="fleet fleet is held by #clean-up, not by attempt 1 of run run-1"):
        leader.keep()
    # THEN
    assert lease_of(work).expires_at == 2_000_000_000


def test_change_of_the_lease_in_between_wins(aws: Aws, work: NodeAttempt) -> None:
    """A renewal that comes too late changes nothing; the next turn renews what it reads then."""
    # GIVEN
    renewal = LeaseRenewal(work.ledger, fleet=work.node.fleet, settings=work.run.settings)
    read = lease_of(work)
    aws.put_lease(work.node.fleet, run="run-1", expires_at=2_000_000_000)
    # WHEN
    renewal.renew(read)
    between = lease_of(work)
    renewal.renew(between)
    # THEN
    assert between.expires_at == 2_000_000_000
    assert lease_of(work).expires_at < 2_000_000_000


@pytest.mark.parametrize(("lease", "seconds"), [(600, 120.0), (30, 6.0), (3, 1.0)])
def test_four_renewals_may_fail(lease: int, seconds: float) -> None:
    """A fifth of the lease's time, and never more than one a second."""
    assert renewal_seconds(replace(SETTINGS, lease_seconds=lease)) == seconds


@pytest.mark.parametrize("market", contract.MARKETS)
def test_node_of_the_leases_market_leads_at_once(work: NodeAttempt, market: str) -> None:
    """Which market leads is the fleet's affair, so the lease says it."""
    # GIVEN
    lease = replace(work.lease, leader_market=market)
    candidate = replace(work, lease=lease, node=replace(work.node, market=market))
    # WHEN / THEN
    assert elect(candidate, Membership(candidate)) == work.node.id
