"""
The way from a fleet without capacity to one of another engine (`Engine.first_available`).

`$left` records the fleets that the run has left: `fleets`, each with `id`, `until` (epoch seconds at which nothing ran
there any more) and `in_receipt` (see `FleetConfig`), and `bills` (see `IFleetStates.bill`). The receipt has their
nodes, like those of the last fleet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.item_update import update_item
from cdk_horovod.asl.states import CAUGHT, RUN_KEY, jsonata
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.workflow.receipt_math import asks_of
from horovod_node import contract

NONE_LEFT: Final[Mapping[str, Any]] = {"fleets": [], "bills": []}
"""`$left` of a run that has left no fleet."""

_LEFT: Final = """{
  'fleets': [$append($left.fleets, [{
    'id': $fleet.id,
    'in_receipt': $fleet.in_receipt,
    'until': $floor($toMillis($exists($times.terminated_at) ? $times.terminated_at : $now()) / 1000)
  }])],
  'bills': [$append($left.bills, $bills)]
}"""


def leave_the_fleet(scope: Construct, *, ledger: Ledger, failed: sfn.IChainable) -> sfn.TaskStateBase:
    """
    Build the state that forgets `$fleet`, empty and released, and all others of its engine, so that the run queues.

    It records in the run's item what was left, because a clean-up cannot get it elsewhere.

    Args:
        scope: Scope of the state.
        ledger: The training's ledger.
        failed: Follows if the ledger cannot be written.
    """
    times = """$merge([
  $sift($times, function($time, $name) { $name != 'terminated_at' }), {'left_at': $now()}
])"""
    state = update_item(
        scope,
        "Leave the fleet",
        ledger=ledger,
        key=RUN_KEY,
        update="SET #stage = :stage, #times = :times, #left = :left",
        names={"#stage": contract.STAGE, "#times": contract.TIMES_JSON, "#left": contract.LEFT_JSON},
        values={
            ":stage": {"S": contract.STAGE_QUEUED},
            ":times": {"S": jsonata(f"$string({times})")},
            ":left": {"S": jsonata(f"$string({_LEFT})")},
        },
        assign={
            "left": jsonata(_LEFT),
            "fleets": jsonata("[$filter($fleets, function($other) { $other.engine != $fleet.engine })]"),
            "fleet": {},
            "bills": [],
            "times": jsonata(times),
            "tally": jsonata(f"$merge([$tally, {{'asks': {asks_of('$tally.asks', '[$fleet]')}}}])"),
            "must_be_empty": True,
            "outcome": {"succeeded": False, "error": jsonata("''"), "cause": jsonata("''")},
        },
    )
    state.add_catch(failed, assign=CAUGHT)
    return state
