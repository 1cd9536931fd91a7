"""Times of `RunTimeouts` that follow from others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aws_cdk import Duration

from cdk_horovod import RunTimeouts
from cdk_horovod.workflow.run_timeouts import EVENTS_OF_THE_QUEUE
from horovod_node import contract

DEFAULTS = RunTimeouts()


@pytest.mark.parametrize(
    ("hours", "fleets", "seconds"), [(24, 1, 155), (24, 3, 302), (1, 1, 15), (2, 1, 15), (24 * 7, 1, 1084)]
)
def test_long_queue_looks_seldom(hours: float, fleets: int, seconds: int) -> None:
    """The pause between two polls grows with the queue's timeout and the fleets, from the poll interval up."""
    timeouts = replace(DEFAULTS, queue_timeout=Duration.seconds(int(hours * 3600)))
    assert timeouts.queue_interval(fleets=fleets).to_seconds() == seconds


@pytest.mark.parametrize("fleets", [1, 2, 5, 20])
@pytest.mark.parametrize("hours", [1, 24, 24 * 30])
def test_whole_run_fits_into_the_history(hours: int, fleets: int) -> None:
    """Waiting until the queue's timeout takes no more events than are reserved for the queue."""
    # GIVEN a run that looks at the line as often as it can, and tries every fleet in vain
    timeouts = replace(DEFAULTS, queue_timeout=Duration.hours(hours))
    looks = timeouts.queue_timeout.to_seconds() / timeouts.queue_interval(fleets=fleets).to_seconds()
    # WHEN counting: a task makes 5 events and a choice or a wait 2, and a failed attempt one more
    waiting = looks * (5 + 2 + 2 + fleets * (6 + 2))
    # THEN
    assert waiting <= EVENTS_OF_THE_QUEUE


def test_lease_holds_until_somebody_can_renew_it() -> None:
    """A lease outlasts the start of the nodes, because no leader can renew it before."""
    assert DEFAULTS.hold.to_minutes() == 25


def test_execution_outlasts_the_run() -> None:
    """The execution's own limit, which no Catch follows, comes after every limit of the run."""
    assert DEFAULTS.without_training.to_minutes() == 60 + 25
    most = (contract.MOST_RESTARTS + 1) * 120
    assert DEFAULTS.execution_timeout(forming=120 * 60).to_minutes() == (24 + 24) * 60 + 60 + 25 + most + 60


@pytest.mark.parametrize(
    ("minutes", "longest"),
    [
        # One repeat after throttling, and the start_timeout of nodes that came late.
        ([None], 30 + 30 + 30),
        ([10], 10 + 10 + 30),
        # And five minutes for the nodes of each attempt to go.
        ([10, 5, 5, 5, None], 10 + 3 * 5 + 30 + 30 + 30 + 4 * 5),
    ],
)
def test_forming_a_ring_takes_no_longer_than_all_attempts(minutes: list[int | None], longest: int) -> None:
    """The plan's attempts follow each other, each with its own limit of time or the training's."""
    timeouts = [None if each is None else each * 60 for each in minutes]
    assert DEFAULTS.forming(timeouts).to_minutes() == longest
