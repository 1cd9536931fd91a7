"""`RunLimits`: times that follow from other times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aws_cdk import Duration

from cdk_horovod.workflow.limits import RunLimits

LIMITS = RunLimits(
    max_runtime=Duration.hours(24),
    queue_timeout=Duration.hours(24),
    launch_timeout=Duration.minutes(15),
    start_timeout=Duration.minutes(30),
    save_timeout=Duration.hours(1),
    heartbeat=Duration.seconds(60),
    first_step_timeout=Duration.minutes(30),
    stall_timeout=Duration.minutes(10),
    lease_timeout=Duration.minutes(10),
    elastic_timeout=Duration.minutes(10),
    poll_interval=Duration.seconds(15),
)
"""The construct's defaults."""


@pytest.mark.parametrize(
    ("hours", "fleets", "seconds"), [(24, 1, 92), (24, 3, 169), (1, 1, 15), (3.9, 1, 15), (24 * 7, 1, 639)]
)
def test_long_queue_looks_seldom(hours: float, fleets: int, seconds: int) -> None:
    """The longer a run may wait and the more fleets it tries, the longer it pauses; never less than it polls."""
    limits = replace(LIMITS, queue_timeout=Duration.seconds(int(hours * 3600)))
    assert limits.queue_interval(fleets=fleets).to_seconds() == seconds


@pytest.mark.parametrize("fleets", [1, 2, 5, 20])
@pytest.mark.parametrize("hours", [1, 24, 24 * 30])
def test_whole_run_fits_into_the_history(hours: int, fleets: int) -> None:
    """Waiting to the very end, and then an hour of terminating, stays below Step Functions' 25,000 events."""
    # GIVEN a run that looks at the line as often as it can, tries every fleet in vain, and terminates for an hour
    limits = replace(LIMITS, queue_timeout=Duration.hours(hours))
    looks = limits.queue_timeout.to_seconds() / limits.queue_interval(fleets=fleets).to_seconds() + 1
    turns = 3600 / limits.poll_interval.to_seconds()
    # WHEN counting: a task makes 5 events and a choice or a wait 2, and a failed attempt one more
    waiting = looks * (5 + 2 + 2 + 2 + fleets * (6 + 2))
    terminating = turns * (5 + 2 + 5 + 5 + 2 + 2)
    # THEN it leaves room for the run itself, which has some 40 states
    assert waiting + terminating + 40 * 5 < 25_000


def test_lease_holds_until_somebody_can_renew_it() -> None:
    """Before the first node is up there is no leader."""
    assert LIMITS.hold.to_minutes() == 25


def test_execution_outlasts_the_run() -> None:
    """The execution's own limit, which no Catch follows, comes after every limit of the run."""
    assert LIMITS.without_training.to_minutes() == 30 + 60 + 25
    assert LIMITS.execution_timeout.to_minutes() == (24 + 24) * 60 + 115 + 60
