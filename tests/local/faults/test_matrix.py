"""
Phases and faults: whatever goes wrong, whenever, nothing is left running, and the receipt says why.

The dead-man's switches are off in every cell: what is shown here the first three layers do without them. What each
layer does alone is in `test_layers.py`. `make faults` writes the table to docs/fault-matrix.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from horovod_client import Run, RunEnded
from support.faults.cases import FAULT_CASES
from support.faults.expectations import SLACK, SUCCESS, Expectation, FaultCase
from support.faults.lab import ONE, TWO, Lab, receipt_of, until
from support.faults.matrix_table import TABLE, Cell
from support.faults.phases import PHASES, Phase
from support.waiting import SECONDS

IN_EVERY_TEST = {
    ("training", "clean-up rule lost, StopExecution"),
    ("training", "leader's agent hangs"),
    ("terminating", "capacity cannot be changed 5 times"),
    ("writing the receipt", "StopExecution"),
}
"""The others take their time: `make faults`."""


def cells() -> Iterator[object]:
    """List every cell in which the fault can happen."""
    for phase in PHASES:
        for fault in FAULT_CASES:
            expectation = fault.expect(phase)
            if expectation is not None:
                often = (phase.name, fault.name) in IN_EVERY_TEST
                yield pytest.param(
                    phase,
                    fault,
                    expectation,
                    id=f"{phase.name}-{fault.name}",
                    marks=() if often else pytest.mark.slow,
                )


@pytest.fixture(scope="module")
def bystanders(deployed: Lab) -> Iterator[list[Run]]:
    """The runs that have been bystanders so far; the last one is stopped in the end."""
    runs: list[Run] = []
    yield runs
    deployed.heal()
    if runs and not runs[-1].status().ended:
        runs[-1].stop()
    # The tests that come next want this fleet, and a run takes the other one while the clean-up holds it.
    assert until(SECONDS, lambda: deployed.is_at_rest(ONE) and deployed.holder(ONE) == "")


@pytest.fixture
def bystander(lab: Lab, bystanders: list[Run]) -> Run:
    """A run in the other fleet, which must not notice anything; a new one only after a test that has hurt it."""
    if bystanders and not bystanders[-1].status().ended:
        return bystanders[-1]
    assert until(SECONDS, lambda: lab.is_at_rest(ONE) and lab.holder(ONE) == "")
    lab.put(switches_start=False)
    run = lab.start(gpus=1)
    assert until(SECONDS, lambda: lab.holder(ONE) == run.name and lab.steps_of(run) > 0)
    bystanders.append(run)
    return run


@pytest.mark.parametrize(("phase", "fault", "expectation"), list(cells()))
def test_nothing_is_left(lab: Lab, bystander: Run, phase: Phase, fault: FaultCase, expectation: Expectation) -> None:
    """The run's fleet is empty within the bound, its lease is free, its receipt names the cause."""
    # GIVEN a run in this phase, and another run in the other fleet
    witness = lab.instances_in(ONE)
    lab.put(switches_start=False)
    with fault.before(lab):
        run = phase.reach(lab, 6 if fault.ends_by_itself else None)
    # WHEN the fault strikes
    fault.act(lab, run)
    if phase.name == "queueing":
        assert lab.blocker is not None
        with suppress(RunEnded):
            lab.blocker.stop()
    # THEN nothing of the run is left within the bound
    bound = expectation.bound.seconds + SLACK
    assert until(bound, lambda: run.status().ended), f"{lab.state_of(run)} after {bound} s"
    assert until(bound, lambda: lab.is_at_rest(TWO)), lab.group_of(TWO)
    assert until(bound, lambda: lab.holder(TWO) == ""), lab.app.lease(TWO)
    assert run.name not in lab.app.queue() or not until(bound, lambda: run.name in lab.app.queue())
    # AND its receipt names the cause
    receipt = receipt_of(run)
    assert receipt.get("error", SUCCESS) in expectation.outcomes, receipt
    assert receipt["outcome"] == SUCCESS or receipt["cause"]
    # AND the other run has not noticed anything
    assert bystander.status().state == "RUNNING"
    assert (lab.holder(ONE), lab.instances_in(ONE)) == (bystander.name, witness)
    TABLE.add(Cell(phase=phase.name, fault=fault.name, receipt=receipt, bound=expectation.bound.formula))
