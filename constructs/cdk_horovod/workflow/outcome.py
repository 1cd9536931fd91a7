"""Why a run ends, where the answer depends on more than one thing."""

from __future__ import annotations

from typing import Any

from cdk_horovod.workflow.limits import RunLimits
from cdk_horovod.workflow.states import NOW, jsonata
from horovod_node import contract


def lease_lost() -> dict[str, Any]:
    """What a run says that no longer has its fleet: its own outcome if there is one, else why it cannot begin."""
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


def leader_lost(limits: RunLimits) -> dict[str, Any]:
    silence = (
        f"'No heartbeat for {limits.heartbeat.to_seconds()} s from the leader ' & $ring.leader.node "
        "& '. Its instance or its agent died: see the log of this node.'"
    )
    return _ceiling_or(contract.ERROR_LEADER_LOST, silence)


def out_of_time() -> dict[str, Any]:
    limit = f"$request.{contract.MAX_RUNTIME_SECONDS}"
    return _ceiling_or(
        contract.ERROR_MAX_RUNTIME,
        f"'The training took longer than its {contract.MAX_RUNTIME_SECONDS}, ' & {limit} & ' s.'",
    )


def _ceiling_or(error: str, cause: str) -> dict[str, Any]:
    """Nodes that take themselves out at the ceiling look like lost ones: the clock tells which it was."""
    ceiling = f"$price.{contract.CEILING_AT}"
    reached = f"{ceiling} > 0 and {ceiling} <= {NOW}"
    words = (
        f"'The run has cost its {contract.MAX_COST_USD}, ' & $price.{contract.CEILING_USD} & ' USD: its instances ' "
        f"& 'cost ' & $price.{contract.USD_PER_HOUR} & ' USD an hour.'"
    )
    return {
        "outcome": {
            "succeeded": False,
            "error": jsonata(f"{reached} ? '{contract.ERROR_COST_CEILING}' : '{error}'"),
            "cause": jsonata(f"{reached} ? {words} : {cause}"),
        }
    }
