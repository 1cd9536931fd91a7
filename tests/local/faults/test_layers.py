"""
Each of the four layers with the other three switched off.

The workflow's own Catch is off when its execution is stopped: Step Functions runs no Catch then.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from horovod_client import ReceiptNotFound, Run
from horovod_client.run import STOPPED_ERROR
from horovod_local import ApiFault
from horovod_node import contract
from support.faults.expectations import SLACK, Bound
from support.faults.lab import HEARTBEAT, HOLD, LEASE, ONE, REAPER, Lab, receipt_of, until
from support.faults.matrix_table import TABLE, Layer
from support.waiting import SECONDS

LOOK = 6
"""Seconds between two looks of the switch, its two calls of the AWS CLI included, on a loaded machine."""


@pytest.fixture(autouse=True)
def nothing_is_left(lab: Lab) -> Iterator[None]:
    """Every test begins and ends with a fleet at rest; what a layer leaves to another one, the others take then."""
    yield
    lab.heal()
    assert until(SECONDS, lambda: lab.is_at_rest(ONE) and lab.app.lease(ONE) is None), lab.app.lease(ONE)


def training_run(lab: Lab, *, layers: tuple[str, ...] = (), switches: bool = False) -> Run:
    """Start a run that trains in the fleet of one GPU, with these layers on."""
    for layer in ("clean-up", "reaper"):
        lab.switch(layer, on=layer in layers)
    lab.put(switches_start=switches)
    run = lab.start(gpus=1)
    assert until(SECONDS, lambda: lab.holder(ONE) == run.name and lab.steps_of(run) > 0)
    return run


def settles(lab: Lab, bound: Bound) -> bool:
    """Wait for the fleet to be empty and its lease free, for as long as it may take."""
    return until(bound.seconds + SLACK, lambda: lab.is_at_rest(ONE) and lab.holder(ONE) == "")


@pytest.mark.slow
def test_catch_alone(lab: Lab) -> None:
    """A killed agent is noticed by its missing heartbeats, without any other layer."""
    # GIVEN no layer but the workflow's own
    run = training_run(lab)
    # WHEN the leader's agent dies
    bound = Bound(formula="heartbeat", seconds=HEARTBEAT)
    pid = lab.leader_of(run).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    # THEN
    assert settles(lab, bound)
    receipt = receipt_of(run)
    assert (receipt["written_by"], receipt["error"]) == ("workflow", contract.ERROR_LEADER_LOST)
    TABLE.add_layer(
        Layer(name="Catch", fault="leader's agent killed", ended=str(receipt["error"]), bound=bound.formula)
    )


def test_clean_up_alone(lab: Lab) -> None:
    """A stopped execution is cleaned up after, without reaper and switch."""
    # GIVEN
    run = training_run(lab, layers=("clean-up",))
    # WHEN
    run.stop()
    # THEN
    bound = Bound(formula="event", seconds=2)
    assert settles(lab, bound)
    receipt = receipt_of(run)
    assert (receipt["written_by"], receipt["error"]) == ("clean-up", STOPPED_ERROR)
    TABLE.add_layer(Layer(name="clean-up", fault="StopExecution", ended=STOPPED_ERROR, bound=bound.formula))


def test_reaper_alone(lab: Lab) -> None:
    """A stopped execution's fleet is found by the clock, without clean-up and switch."""
    # GIVEN
    run = training_run(lab, layers=("reaper",))
    # WHEN
    run.stop()
    # THEN
    bound = Bound(formula="2 reaper_intervals", seconds=2 * REAPER)
    assert settles(lab, bound)
    receipt = receipt_of(run)
    assert (receipt["written_by"], receipt["error"]) == ("reaper", STOPPED_ERROR)
    TABLE.add_layer(Layer(name="reaper", fault="StopExecution", ended=STOPPED_ERROR, bound=bound.formula))


def switch_bound(*, held: float, formula: str) -> Bound:
    """Add the node's own patience to what its lease is still good for."""
    return Bound(formula=f"{formula} + lease_timeout", seconds=held + LEASE + 2 * LOOK)


def note_switch(lab: Lab, run: Run, *, fault: str, bound: Bound) -> None:
    """A node cannot write a receipt of a run; the next layer that works again does."""
    with pytest.raises(ReceiptNotFound):
        run.receipt()
    lab.switch("reaper", on=True)
    assert until(2 * REAPER + SLACK, lambda: lab.app.lease(ONE) is None)
    receipt = receipt_of(run)
    assert (receipt["written_by"], receipt["error"]) == ("reaper", STOPPED_ERROR)
    TABLE.add_layer(
        Layer(
            name="dead-man's switch",
            fault=fault,
            ended=f"{STOPPED_ERROR}, once the reaper is back",
            bound=bound.formula,
        )
    )


@pytest.mark.slow
def test_switch_alone(lab: Lab) -> None:
    """An instance whose agent hangs, and of whose run nobody knows any more, takes itself out."""
    # GIVEN a run whose leader's agent hangs
    run = training_run(lab, switches=True)
    pid = lab.leader_of(run).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    # WHEN its execution is stopped, and no other layer acts
    run.stop()
    # THEN its lease expires, and some time later the instance is gone for good
    bound = switch_bound(held=LEASE, formula="lease_timeout")
    assert settles(lab, bound)
    note_switch(lab, run, fault="agent hangs, StopExecution", bound=bound)


@pytest.mark.slow
def test_switch_alone_when_the_agent_has_left(lab: Lab) -> None:
    """An agent that learns that its execution has ended leaves; its instance follows."""
    # GIVEN
    run = training_run(lab, switches=True)
    # WHEN
    run.stop()
    # THEN
    bound = switch_bound(held=LEASE, formula="lease_timeout")
    assert settles(lab, bound)
    note_switch(lab, run, fault="StopExecution", bound=bound)


@pytest.mark.slow
def test_switch_alone_when_no_container_ever_started(lab: Lab) -> None:
    """An instance without a container holds out as long as the lease that its run took for it."""
    # GIVEN an instance on which nothing but the switch runs
    for layer in ("clean-up", "reaper"):
        lab.switch(layer, on=False)
    lab.put(switches_start=True, agents_start=False)
    run = lab.start(gpus=1)
    assert until(SECONDS, lambda: bool(lab.instances_in(ONE)))
    # WHEN
    run.stop()
    # THEN
    bound = switch_bound(held=HOLD, formula="launch_timeout + lease_timeout")
    assert settles(lab, bound)
    note_switch(lab, run, fault="agent never starts, StopExecution", bound=bound)


@pytest.mark.slow
def test_switch_alone_when_the_ledger_is_away(lab: Lab) -> None:
    """An instance that cannot read its lease for long enough takes itself out all the same."""
    # GIVEN
    run = training_run(lab, switches=True)
    node = lab.leader_of(run).instance_id
    # WHEN the node is cut off from the ledger and its execution is stopped
    lab.put(failing=(ApiFault(service="dynamodb", caller=node, error="drop"),))
    run.stop()
    # THEN
    bound = switch_bound(held=0, formula="0")
    assert settles(lab, bound)
    lab.put(failing=())
    note_switch(lab, run, fault="ledger unreachable, StopExecution", bound=Bound(formula="lease_timeout", seconds=0))
