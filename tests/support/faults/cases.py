"""Every fault of the matrix, in its order. Those of Auto Scaling groups and of the ledger have modules of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from horovod_client import Run
from horovod_client.run import STOPPED_ERROR
from horovod_local import ApiFault
from horovod_local.shared.faults import WORKFLOW
from horovod_node import contract
from support.faults.expectations import (
    AT_ONCE,
    BY_EVENT,
    BY_HEARTBEAT,
    BY_LAUNCH,
    BY_LEASE,
    BY_OUTAGE,
    BY_REAPER,
    BY_RUN,
    BY_SILENCE,
    OUTAGE,
    STUBBORN,
    SUCCESS,
    Bound,
    Expectation,
    FaultCase,
    release,
)
from support.faults.group_cases import GROUP_CASES
from support.faults.lab import Lab, until
from support.faults.ledger_cases import LEDGER_CASES
from support.faults.phases import SCALING, Phase

TIME_LIMIT = 18
"""Of an execution: later than every phase is reached, and sooner than launch_timeout ends a run without nodes."""
REFUSALS = 5
"""More than a state of the workflow tries by itself."""


def _stop(lab: Lab, run: Run) -> None:
    run.stop()
    release(lab)


def _stop_without(layer: str) -> Callable[[Lab, Run], None]:
    def act(lab: Lab, run: Run) -> None:
        lab.switch(layer, on=False)
        _stop(lab, run)

    return act


def _signal_leader(number: signal.Signals) -> Callable[[Lab, Run], None]:
    def act(lab: Lab, run: Run) -> None:
        pid = lab.leader_of(run).pid
        assert pid is not None, "the leader's agent has ended before it could be signalled"
        os.kill(pid, number)
        release(lab)

    return act


def _lose_a_worker(lab: Lab, run: Run) -> None:
    leader = lab.app.leader_of(run)
    worker = next(node for node in lab.nodes_of(run) if node.instance_id != leader)
    lab.cloud.lose(worker.instance_id)
    release(lab)


def _lose_all_nodes(lab: Lab, run: Run) -> None:
    for node in lab.nodes_of(run):
        lab.cloud.lose(node.instance_id)
    release(lab)


def _hide_the_ledger(lab: Lab, run: Run) -> None:
    nodes = [node.instance_id for node in lab.nodes_of(run)]
    release(lab, *(ApiFault(service="dynamodb", caller=node, error="drop") for node in nodes))


def _fail(*faults: ApiFault) -> Callable[[Lab, Run], None]:
    def act(lab: Lab, _run: Run) -> None:
        release(lab, *faults)

    return act


def _nothing_starts_agents(lab: Lab) -> AbstractContextManager[None]:
    lab.put(agents_start=False)
    return nullcontext()


def _no_agents(lab: Lab, _run: Run) -> None:
    release(lab)


def _wait_for_the_limit(lab: Lab, run: Run) -> None:
    assert until(3 * TIME_LIMIT, lambda: run.status().state == "TIMED_OUT"), run.status()
    release(lab)


def _stubborn(lab: Lab, _run: Run) -> None:
    lab.put(termination_delay_seconds=float(STUBBORN))
    release(lab)


def _stopped(phase: Phase) -> Expectation:
    # The call in flight cannot be called back: the workflow's own receipt may still arrive.
    last = (SUCCESS,) if phase.name == "writing the receipt" else ()
    return Expectation(outcomes=(STOPPED_ERROR, *last), bound=BY_EVENT)


def _out_of_time(phase: Phase) -> Expectation | None:
    if phase.name == "saving":
        return None  # an upload that does not move has no heartbeat, and is given up before
    last = (SUCCESS,) if phase.name == "writing the receipt" else ()
    return Expectation(outcomes=(contract.ERROR_TIMED_OUT, *last), bound=BY_EVENT)


def _stopped_without_rule(phase: Phase) -> Expectation | None:
    if phase.name == "queueing":
        return None  # nothing runs; its receipt comes when the waiter has been silent for six minutes: test_queue.py
    return Expectation(outcomes=_stopped(phase).outcomes, bound=BY_REAPER)


def _leader_gone(phase: Phase) -> Expectation | None:
    if not phase.nodes:
        return None
    if phase.name == "joining":
        return Expectation(outcomes=(contract.ERROR_LEADER_LOST,), bound=BY_LAUNCH)
    if phase.state in ("Train", "Save the model"):
        return Expectation(outcomes=(contract.ERROR_LEADER_LOST,), bound=BY_HEARTBEAT)
    return Expectation(outcomes=(SUCCESS,), bound=AT_ONCE)


def _worker_gone(phase: Phase) -> Expectation | None:
    if not phase.workers:
        return None
    if phase.name == "joining":
        # The group replaces it. The ring counts a lost node's item until its silence is noticed.
        return Expectation(outcomes=(SUCCESS, contract.ERROR_NODE_FAILED, contract.ERROR_LEADER_LOST), bound=BY_SILENCE)
    return Expectation(outcomes=(contract.ERROR_NODE_FAILED, contract.ERROR_TRAINING_FAILED), bound=BY_SILENCE)


def _ledger_gone(phase: Phase) -> Expectation | None:
    if not phase.nodes:
        return None
    if phase.state in ("Wait for the ring", "Train", "Save the model"):
        # The nodes give up, the leader's heartbeats end, or the reaper takes the expired lease: the first one names it.
        outcomes = (contract.ERROR_NODE_FAILED, contract.ERROR_LEADER_LOST, contract.ERROR_LEASE_LOST)
        ring = (contract.ERROR_RING_NOT_FORMED,) if phase.name == "joining" else ()
        saved = (SUCCESS,) if phase.name == "saving" else ()
        return Expectation(outcomes=(*outcomes, *ring, *saved), bound=BY_LAUNCH if ring else BY_LEASE)
    return Expectation(outcomes=(SUCCESS,), bound=AT_ONCE)


def _survived(phase: Phase) -> Expectation:  # noqa: ARG001 - one signature for all
    return Expectation(outcomes=(SUCCESS,), bound=BY_RUN)


def _scaling_refused(phase: Phase) -> Expectation:
    before = phase.name == "queueing"
    outcomes = ("AutoScaling.ScalingActivityInProgressException",) if before else (SUCCESS,)
    return Expectation(outcomes=(*outcomes, SUCCESS) if before else outcomes, bound=BY_OUTAGE)


def _terminating_fails(phase: Phase) -> Expectation:
    return Expectation(outcomes=_scaling_refused(phase).outcomes, bound=BY_OUTAGE)


def _described_late(phase: Phase) -> Expectation:  # noqa: ARG001 - one signature for all
    return Expectation(outcomes=(SUCCESS,), bound=BY_OUTAGE)


def _upload_refused(phase: Phase) -> Expectation | None:
    if phase.name not in ("queueing", "starting", "joining", "training"):
        return None  # the upload has begun or is over
    return Expectation(outcomes=(contract.ERROR_NODE_FAILED,), bound=BY_RUN)


def _scaling(**limits: float) -> tuple[ApiFault, ...]:
    """Let no state machine change a group's capacity, within *limits*."""
    refused = ApiFault(service="autoscaling", caller=WORKFLOW, error="ScalingActivityInProgress", status=400)
    return tuple(replace(refused, operation=operation, **limits) for operation in SCALING)


FAULT_CASES = (
    FaultCase(name="StopExecution", act=_stop, expect=_stopped),
    FaultCase(name="clean-up rule lost, StopExecution", act=_stop_without("clean-up"), expect=_stopped_without_rule),
    FaultCase(name="reaper off, StopExecution", act=_stop_without("reaper"), expect=_stopped),
    FaultCase(
        name="execution's own time limit",
        act=_wait_for_the_limit,
        expect=_out_of_time,
        before=lambda lab: lab.executions_limited_to(TIME_LIMIT),
    ),
    FaultCase(name="leader's agent killed", act=_signal_leader(signal.SIGKILL), expect=_leader_gone),
    FaultCase(name="leader's agent hangs", act=_signal_leader(signal.SIGSTOP), expect=_leader_gone),
    FaultCase(name="worker lost", act=_lose_a_worker, expect=_worker_gone),
    FaultCase(name="all nodes lost", act=_lose_all_nodes, expect=_leader_gone),
    FaultCase(
        name="agents never start",
        act=_no_agents,
        expect=lambda phase: (
            Expectation(outcomes=(contract.ERROR_RING_NOT_FORMED,), bound=BY_LAUNCH)
            if phase.name == "starting"
            else None
        ),
        before=_nothing_starts_agents,
    ),
    FaultCase(name="ledger unreachable from the nodes", act=_hide_the_ledger, expect=_ledger_gone),
    FaultCase(
        name=f"capacity cannot be changed {REFUSALS} times",
        act=_fail(*_scaling(times=REFUSALS)),
        expect=_scaling_refused,
        ends_by_itself=True,
    ),
    FaultCase(
        name="capacity cannot be changed for long",
        act=_fail(*_scaling(seconds=OUTAGE)),
        expect=_terminating_fails,
        ends_by_itself=True,
    ),
    FaultCase(
        name="Describe* throttled for long",
        act=_fail(
            ApiFault(
                service="autoscaling",
                operation="Describe*",
                caller=WORKFLOW,
                error="Throttling",
                status=400,
                seconds=OUTAGE,
            )
        ),
        expect=_described_late,
        ends_by_itself=True,
    ),
    FaultCase(
        name="instances ignore their termination",
        act=_stubborn,
        expect=lambda phase: Expectation(
            outcomes=_survived(phase).outcomes, bound=Bound(formula="its own delay", seconds=STUBBORN + 8)
        ),
        ends_by_itself=True,
    ),
    FaultCase(
        name="S3 refuses the model",
        act=_fail(
            *(
                ApiFault(service="s3", operation=operation, caller="node", error="AccessDenied", status=403)
                for operation in ("PutObject", "CreateMultipartUpload")
            )
        ),
        expect=_upload_refused,
        ends_by_itself=True,
    ),
    *LEDGER_CASES,
    *GROUP_CASES,
)
