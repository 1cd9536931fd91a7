"""The phases of a run, and how a test brings a run into one and keeps it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from horovod_client import Run
from horovod_local import ApiFault
from horovod_local.shared.faults import WORKFLOW
from support.faults.lab import TWO, Lab, until
from support.waiting import SECONDS

SCALING = ("UpdateAutoScalingGroup", "SetDesiredCapacity")
"""What changes a group's capacity."""
LONG = 300
"""Seconds that a held call is late, if nothing else happens before."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """
    One phase.

    Args:
        name: As the table calls it.
        state: The state of the workflow that the run is in.
        reach: Starts the run that is to suffer, and returns it when it is there; what holds it there is in force. Takes
            the seconds of its training, or None for a training that fits the phase.
        nodes: Whether nodes have joined and one leads.
        workers: Whether there are nodes beside the leader.
    """

    name: str
    state: str
    reach: Callable[[Lab, float | None], Run]
    nodes: bool = False
    workers: bool = False


def _queueing(lab: Lab, seconds: float | None = None) -> Run:
    blocker = lab.start(gpus=2)
    assert until(SECONDS, lambda: lab.holder(TWO) == blocker.name)
    run = lab.start(gpus=2, seconds=seconds or 1)
    lab.blocker = blocker
    return _in_state(lab, run, "Wait in the queue")


def _starting(lab: Lab, seconds: float | None = None) -> Run:
    lab.put(launch_delay_seconds=LONG)
    run = lab.start(gpus=2, seconds=seconds or 1)
    return _in_state(lab, run, "Wait for the ring")


def _joining(lab: Lab, seconds: float | None = None) -> Run:
    lab.put(failing=(_late("s3", "GetObject", caller="node"),))
    run = lab.start(gpus=2, seconds=seconds or 1)
    assert until(SECONDS, lambda: len(lab.nodes_of(run)) == 2 and lab.app.leader_of(run))
    return _in_state(lab, run, "Wait for the ring")


def _training(lab: Lab, seconds: float | None = None) -> Run:
    run = lab.start(gpus=2, seconds=seconds or LONG)
    _in_state(lab, run, "Train")
    assert until(SECONDS, lambda: lab.steps_of(run) > 0)
    return run


def _saving(lab: Lab, seconds: float | None = None) -> Run:
    lab.put(failing=(_late("s3", "PutObject", caller="node"), _late("s3", "CreateMultipartUpload", caller="node")))
    return _in_state(lab, lab.start(gpus=2, seconds=seconds or 1), "Save the model")


def _checking(lab: Lab, seconds: float | None = None) -> Run:
    lab.put(failing=(_late("s3", "HeadObject", caller=WORKFLOW),))
    return _in_state(lab, lab.start(gpus=2, seconds=seconds or 1), "Check the model")


def _after_checking(state: str, service: str, *operations: str) -> Callable[[Lab, float | None], Run]:
    """Hold the run at its first call of this kind after the model was checked: the same calls were made before."""

    def reach(lab: Lab, seconds: float | None = None) -> Run:
        run = _checking(lab, seconds)
        lab.put(failing=tuple(_late(service, operation, caller=WORKFLOW) for operation in operations))
        return _in_state(lab, run, state)

    return reach


def _late(service: str, operation: str, *, caller: str) -> ApiFault:
    return ApiFault(service=service, operation=operation, caller=caller, error=None, delay_seconds=LONG)


def _in_state(lab: Lab, run: Run, state: str) -> Run:
    reached = until(SECONDS, lambda: lab.state_of(run) == state or run.status().ended)
    status = run.status()
    assert reached, f"{run.name} did not come to '{state}': {lab.state_of(run)}"
    assert not status.ended, f"{run.name} did not stay in '{state}': {status}"
    return run


PHASES = (
    Phase(name="queueing", state="Wait in the queue", reach=_queueing),
    Phase(name="starting", state="Wait for the ring", reach=_starting),
    Phase(name="joining", state="Wait for the ring", reach=_joining, nodes=True, workers=True),
    Phase(name="training", state="Train", reach=_training, nodes=True, workers=True),
    Phase(name="saving", state="Save the model", reach=_saving, nodes=True),
    Phase(name="checking", state="Check the model", reach=_checking, nodes=True),
    Phase(
        name="terminating",
        state="Terminate",
        reach=_after_checking("Terminate", "autoscaling", *SCALING),
        nodes=True,
    ),
    Phase(
        name="confirming",
        state="Confirm that nothing runs",
        reach=_after_checking("Confirm that nothing runs", "autoscaling", "DescribeAutoScalingGroups"),
    ),
    Phase(
        name="writing the receipt",
        state="Write the receipt",
        reach=_after_checking("Write the receipt", "s3", "PutObject"),
    ),
)
