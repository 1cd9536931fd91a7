"""`Assign`s of failures: why a run ends, and whether it starts again."""

from __future__ import annotations

from typing import Any

from cdk_horovod.asl.states import CAUGHT, NOW, jsonata, now_as
from cdk_horovod.workflow.run_timeouts import STARTS, RunTimeouts
from horovod_node import contract

LOST = (contract.ERROR_LEADER_LOST, contract.ERROR_NODE_FAILED)
"""Errors that are not caused by script or request, so another attempt with other nodes may succeed."""

_CEILING = f"$price.{contract.CEILING_AT}"
_CEILING_REACHED = f"({_CEILING} > 0 and {_CEILING} <= {NOW})"
_TRAINED_SECONDS = f"($spent + {NOW} - $floor($toMillis($times.ring_at) / 1000))"
"""Seconds of training of all attempts, if the attempt that was just lost had a ring."""


def lease_lost() -> dict[str, Any]:
    """Return the `Assign` of a run that has lost its lease: it keeps its outcome, or fails with `LEASE_LOST`."""
    undecided = "$outcome.error = '' and $not($outcome.succeeded)"
    return {
        "outcome": {
            "succeeded": jsonata("$outcome.succeeded"),
            "error": jsonata(f"{undecided} ? '{contract.ERROR_LEASE_LOST}' : $outcome.error"),
            "cause": jsonata(
                f"{undecided} ? 'The lease of fleet ' & $fleet.id & ' expired or was taken.' : $outcome.cause"
            ),
        }
    }


def leader_lost(timeouts: RunTimeouts) -> dict[str, Any]:
    """Return the `Assign` after missed heartbeats of a leader that trained or saved; `$lost_leader` names it."""
    silence = (
        f"'No heartbeat for {timeouts.heartbeat.to_seconds()} s from the leader ' & $ring.leader.node "
        "& '. Its instance or its agent died: see the log of this node.'"
    )
    return {
        **_ceiling_or(contract.ERROR_LEADER_LOST, silence),
        **_restart(timeouts, trained=_TRAINED_SECONDS),
        "lost_leader": jsonata("$ring.leader.node"),
    }


def joining_leader_lost(timeouts: RunTimeouts, *, leader: str, heartbeat: str) -> dict[str, Any]:
    """
    Return the `Assign` after missed heartbeats before the ring was formed.

    Without a leader no node has joined: `$search.step` is then `look`, to find the reason instead of starting again.

    Args:
        timeouts: Timeouts of the run.
        leader: Expression of the leader's name, undefined if none was elected.
        heartbeat: Expression of the seconds without a heartbeat.
    """
    words = (
        f"'No heartbeat for ' & {heartbeat} & ' s from the leader ' & {leader} & ', before the ring was formed. "
        "Its instance or its agent died: see the log of this node.'"
    )
    return {
        "outcome": jsonata(
            f"$exists({leader}) ? {{'succeeded': false, 'error': '{contract.ERROR_LEADER_LOST}', 'cause': {words}}} "
            ": $outcome"
        ),
        "times": jsonata(f"$exists({leader}) ? $merge([$times, {{'failed_at': $now()}}]) : $times"),
        "search": jsonata(f"$merge([$search, {{'step': $exists({leader}) ? 'lost' : 'look'}}])"),
        **_restart(timeouts, trained="$spent"),
        "lost_leader": jsonata(f"$exists({leader}) ? {leader} : ''"),
    }


def attempt_lost(timeouts: RunTimeouts, *, had_a_ring: bool) -> dict[str, Any]:
    """Return the `Assign` after a node's answer that the attempt is lost: the node's error, one of `LOST`."""
    return {
        **CAUGHT,
        **_restart(timeouts, trained=_TRAINED_SECONDS if had_a_ring else "$spent"),
        "lost_leader": jsonata("''"),
    }


def out_of_time() -> dict[str, Any]:
    limit = f"$request.{contract.MAX_RUNTIME_SECONDS}"
    return _ceiling_or(
        contract.ERROR_MAX_RUNTIME,
        f"'The training took longer than its {contract.MAX_RUNTIME_SECONDS}, ' & {limit} & ' s.'",
    )


def _restart(timeouts: RunTimeouts, *, trained: str) -> dict[str, Any]:
    """Return `Assign`s that decide whether the run starts again: restarts, time, money and history must be left."""
    left = f"$request.{contract.MAX_RUNTIME_SECONDS} - {trained}"
    return {
        "spent": jsonata(trained),
        "restart": jsonata(
            f"$count($lost_attempts) < $request.{contract.MAX_RESTARTS} and {left} > {timeouts.heartbeat.to_seconds()} "
            f"and $search.starts < {STARTS} and $not({_CEILING_REACHED})"
        ),
    }


def _ceiling_or(error: str, cause: str) -> dict[str, Any]:
    """Return the `Assign` of *error*, or of the cost ceiling if it is reached: nodes then terminate themselves."""
    words = (
        f"'The run has cost its {contract.MAX_COST_USD}, ' & $price.{contract.CEILING_USD} & ' USD: its instances ' "
        f"& 'cost ' & $price.{contract.USD_PER_HOUR} & ' USD an hour.'"
    )
    return {
        "outcome": {
            "succeeded": False,
            "error": jsonata(f"{_CEILING_REACHED} ? '{contract.ERROR_COST_CEILING}' : '{error}'"),
            "cause": jsonata(f"{_CEILING_REACHED} ? {words} : {cause}"),
        },
        "times": now_as("failed_at"),
    }
