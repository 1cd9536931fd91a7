"""A node shows that it lives, and looks whether it still belongs."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import boto3
import pytest
from botocore.config import Config

from horovod_node import contract
from horovod_node.attempt import membership as membership_module
from horovod_node.attempt.membership import Membership, refresh_seconds
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.ledger import Ledger
from horovod_node.node.conduct import EndsWithItsPart
from horovod_node.node.errors import FinishedError, LedgerUnreachableError, ReleasedError
from horovod_node.node.instance_metadata import InstanceMetadata
from horovod_node.node.interruption import InterruptionWatch
from support.node.emulated_aws import REGION, Aws, MetadataService
from support.node.rings import SETTINGS
from support.waiting import eventually


def test_new_state_is_written_at_once(work: NodeAttempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state does not wait for the next refresh, a step does."""
    # GIVEN a next refresh that is far away
    monkeypatch.setattr(membership_module, "REFRESH_SECONDS", 600)
    settings = replace(work.run.settings, heartbeat_seconds=2400, stall_seconds=2400)
    membership = Membership(replace(work, run=replace(work.run, settings=settings)))
    seen = []
    # WHEN
    for state, step in ((None, None), (contract.NODE_TRAINING, 0), (None, 7), (contract.NODE_DONE, 30)):
        membership.keep(state=state, step=step)
        (item,) = work.ledger.nodes(work.lease)
        seen.append((item.state, item.step))
    # THEN
    assert seen == [
        (contract.NODE_JOINED, 0),
        (contract.NODE_TRAINING, 0),
        (contract.NODE_TRAINING, 0),
        (contract.NODE_DONE, 30),
    ]


def test_notice_is_written_at_once(work: NodeAttempt) -> None:
    """A notice of an interruption does not wait for the next refresh."""
    # GIVEN
    with closing(MetadataService({})) as service:
        watch = InterruptionWatch(InstanceMetadata(service.endpoint, attempts=1), poll_seconds=0.02)
        watch.start()
        membership = Membership(work, watch=watch)
        membership.keep()
        # WHEN
        service.metadata.announce_termination(time.time() + 120)
        interruption = eventually(lambda: watch.interruption)
        membership.keep()
    # THEN
    (item,) = work.ledger.nodes(work.lease)
    assert interruption is not None
    assert (item.interruption, item.interrupted_at) == (contract.INTERRUPTION_NOTICE, int(interruption.at))
    assert item.state == contract.NODE_JOINED


@pytest.mark.parametrize(
    ("run", "attempt", "words"),
    [
        (contract.CLEAN_UP, 0, "held by #clean-up, not by attempt 1 of run run-1"),
        ("run-1", 2, "held by attempt 2 of run run-1, not by attempt 1 of run run-1"),
        ("run-2", 1, "held by attempt 1 of run run-2, not by attempt 1 of run run-1"),
    ],
)
def test_node_is_released_when_the_lease_moves_on(
    aws: Aws, work: NodeAttempt, run: str, attempt: int, words: str
) -> None:
    """Another run, and another attempt of the same run, have nodes of their own."""
    # GIVEN
    aws.put_lease(work.node.fleet, run=run, attempt=attempt)
    # WHEN / THEN
    with pytest.raises(ReleasedError, match=words):
        Membership(work).keep()


def test_node_that_is_told_to_stop_leaves_unless_it_is_at_work(work: NodeAttempt) -> None:
    """Before there is a ring, and after the model is saved, nothing is lost; the ring stops in order."""
    # GIVEN
    conduct = EndsWithItsPart()
    working, idle, waiting = (Membership(replace(work, conduct=conduct)) for _ in range(3))
    working.keep(state=contract.NODE_TRAINING)
    # WHEN
    conduct.stops_at = time.monotonic() + 100
    # THEN
    working.keep(step=3)
    with pytest.raises(FinishedError, match="told to stop"):
        idle.idle()
    with pytest.raises(ReleasedError, match="told to stop"):
        waiting.keep()


@pytest.fixture
def cut_off(work: NodeAttempt) -> Iterator[NodeAttempt]:
    """Put a node to work whose ledger is away."""
    # A port at which nobody listens.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = boto3.client(
            "dynamodb",
            endpoint_url=f"http://127.0.0.1:{closed.getsockname()[1]}",
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}),
        )
        yield replace(work, ledger=Ledger(away, table="ledger"))


def test_training_goes_on_without_the_ledger(cut_off: NodeAttempt) -> None:
    """A ledger that is away for a moment ends nothing; what it missed is written when it is back."""
    # GIVEN
    membership = Membership(cut_off)
    membership.lead()
    # WHEN / THEN
    membership.keep(state=contract.NODE_TRAINING, step=3)
    membership.keep(step=4)


def test_fails_when_the_ledger_is_away_for_as_long_as_a_lease_lasts(cut_off: NodeAttempt) -> None:
    """By then the fleet may be another run's."""
    # GIVEN
    settings = replace(cut_off.run.settings, lease_seconds=1)
    membership = Membership(replace(cut_off, run=replace(cut_off.run, settings=settings)))

    # WHEN / THEN
    def keep_for_ever() -> None:
        while True:
            membership.keep()

    with pytest.raises(LedgerUnreachableError, match="DynamoDB table ledger, failed: Could not connect"):
        keep_for_ever()


@pytest.mark.parametrize(("heartbeat", "stall", "seconds"), [(60, 900, 5.0), (8, 900, 2.0), (60, 6, 1.5)])
def test_refresh_is_often_enough_for_every_limit(heartbeat: int, stall: int, seconds: float) -> None:
    """Four refreshes fit into the shortest limit."""
    # GIVEN
    settings = replace(SETTINGS, heartbeat_seconds=heartbeat, stall_seconds=stall)
    # WHEN / THEN
    assert refresh_seconds(settings) == seconds
