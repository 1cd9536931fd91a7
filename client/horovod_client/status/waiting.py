"""Why a run waits, in one sentence."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from horovod_client.status.phase import STARTING
from horovod_client.status.run_status import NODE_PULLING, NODE_STARTED, PHASE_QUEUE, JobStatus, NodeStatus, RunStatus
from horovod_client.text.amounts import duration
from horovod_node import contract

SHOWN: Final = 4
"""Number of nodes that are named; the others are only counted."""


def explain_waiting(status: RunStatus, *, now: float) -> str | None:
    """
    Explain what a run waits for; None if it does not wait.

    In the queue this is its place and the holder of the fleet. Afterwards it is the attempt to get nodes, EC2's last
    refusal, and the nodes that are not ready, with their last sign of life.

    Args:
        status: Status of the run.
        now: Current time, in epoch seconds.
    """
    if status.ended:
        return None
    if status.phase == PHASE_QUEUE:
        return explain_queue(status, now=now)
    if status.stage in STARTING:
        return "; ".join(_start(status, now=now))
    return None


def explain_queue(status: RunStatus, *, now: float | None = None) -> str | None:
    """
    Explain what a run waits for in the queue: its place and the holder of the fleet; None if it is not in the queue.

    Args:
        status: Status of the run.
        now: Current time in epoch seconds, to include durations. Default: durations are left out, so that the sentence
            changes only with the place and the holder.
    """
    if status.ended or status.phase != PHASE_QUEUE:
        return None
    return f"waiting for a fleet: {', '.join(_queue(status, now=now))}"


def _queue(status: RunStatus, *, now: float | None) -> list[str]:
    facts = []
    if status.place is not None:
        facts.append("next in the queue" if status.place == 1 else f"place {status.place} in the queue")
    for holder in status.holders:
        who = {
            contract.CLEAN_UP: "the clean-up of the run before",
            contract.REAPER: "the reaper, which empties it",
        }.get(holder.run, f"run {holder.run}")
        if now is None or holder.since is None:
            facts.append(f"{who} holds {holder.fleet}")
        else:
            facts.append(f"{who} has held {holder.fleet} for {duration(now - holder.since)}")
    return facts or ["next as soon as one is free"]


def _start(status: RunStatus, *, now: float) -> list[str]:
    facts = []
    search = status.capacity
    there = sum(node.gpus for node in status.nodes)
    incomplete = status.gpus is None or there < status.gpus
    count = "" if status.gpus is None else f"{there} of {status.gpus} GPUs"
    if search is not None and incomplete:
        facts.append(
            f"waiting for capacity: {count}{count and ', '}attempt {search.number} of {search.of} "
            f"({search.attempt}) for {duration(now - search.since)}"
        )
        if search.refusal:
            facts.append(f"AWS said: {search.refusal}")
    elif incomplete:
        facts.append(f"waiting for nodes{count and ': '}{count}")
    if status.job is not None:
        facts.append(describe_job(status.job))
    facts += _missing(status.nodes, now=now)
    return facts or ["waiting for the ring to form: all nodes are there"]


def describe_job(job: JobStatus) -> str:
    """Describe a training job: `job NAME (2 x ml.g5.xlarge) is Starting: Preparing the instances for training`."""
    said = f": {job.message}" if job.message else ""
    return f"job {job.name} ({job.nodes} x {job.instance_type}) is {job.status}{said}"


def _missing(nodes: Collection[NodeStatus], *, now: float) -> list[str]:
    late = [node for node in nodes if node.state in (NODE_STARTED, NODE_PULLING, contract.NODE_JOINED)]
    if not late:
        return []
    named = [f"{node.node} ({_sign_of_life(node, now=now)})" for node in late[:SHOWN]]
    more = [f"{len(late) - SHOWN} more"] if len(late) > SHOWN else []
    return [f"not ready: {', '.join([*named, *more])}"]


def _sign_of_life(node: NodeStatus, *, now: float) -> str:
    if node.seen_at is None:
        return "started, not seen yet"
    doing = "downloading script and data" if node.state == contract.NODE_JOINED else node.state
    return f"{doing}, last seen {duration(now - node.seen_at)} ago"
