"""The loop that empties a fleet, in a run and in the clean-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import CONDITION_FAILED, NO_OUTPUT, NOW, jsonata
from cdk_horovod.asl.steps import in_order
from cdk_horovod.engines.engine import IFleetStates
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.workflow import lease

NOT_BEGUN: Final[Mapping[str, Any]] = {"held_at": 0, "looks": 0, "zeros": 0, "pause": 1, "step": "wait"}
"""Value of `$emptying` before the loop, to which a state machine must set it."""

HOLD_AGAIN_SECONDS: Final = 300
"""Seconds between renewals of the lease and repeated terminations. The lease is valid for much longer."""
SOON: Final = 8
"""Polls with the shortest pause, by which most instances have terminated. Later polls are a minute apart."""
LATE_PAUSE_SECONDS: Final = 60
ZEROS: Final = 2
"""
Consecutive polls, a pause apart, that must find nothing running.

Between Auto Scaling's call and EC2's answer a launch has no instance in the group yet, and the description of the group
is eventually consistent.
"""


class Emptying:
    """
    Terminates the fleet's nodes until two polls find nothing running; no error and no number of tries ends the loop.

    It begins with renewing the lease, because only the holder may scale the fleet. Every `HOLD_AGAIN_SECONDS`, and at
    once when a poll fails or finds a desired capacity above 0, it renews the lease and terminates again. In between it
    only polls.

    Args:
        scope: Scope of the states.
        states: Builds the engine's states.
        ledger: The training's ledger.
        hold: How long the renewed lease is valid.
        pause: Pause between the first polls.
        empty: Follows when nothing runs.
        lost: Follows if another execution holds the fleet.
        lost_assign: Variables to set in that case.
    """

    def __init__(
        self,
        scope: Construct,
        *,
        states: IFleetStates,
        ledger: Ledger,
        hold: Duration,
        pause: Duration,
        empty: sfn.IChainable,
        lost: sfn.IChainable,
        lost_assign: Mapping[str, Any] | None = None,
    ) -> None:
        soon = int(pause.to_seconds())
        self.terminate = lease.hold(
            scope,
            ledger=ledger,
            seconds=hold,
            assign={
                "emptying": jsonata(
                    f"$merge([$emptying, {{'held_at': {NOW}, 'zeros': 0, 'pause': {_pause('$emptying.looks', soon)}}}])"
                )
            },
        )
        """First state of the loop; `$emptying` must be set."""
        wait = sfn.Wait.jsonata(
            scope, "Wait for the nodes to go", time=sfn.WaitTime.seconds(jsonata("$emptying.pause")), outputs=NO_OUTPUT
        )
        confirm = states.confirm(
            scope,
            judged=lambda running, wanted: {
                "emptying": jsonata(
                    f"""(
  $zeros := {running} = 0 ? $emptying.zeros + 1 : 0;
  $looks := $emptying.looks + 1;
  {{
    'held_at': $emptying.held_at,
    'looks': $looks,
    'zeros': $zeros,
    'pause': {_pause("$looks", soon)},
    'step': $zeros >= {ZEROS} ? 'empty'
      : {wanted} > 0 or $emptying.held_at + {HOLD_AGAIN_SECONDS} <= {NOW} ? 'hold' : 'wait'
  }}
)"""
                )
            },
        )

        anything = (
            sfn.Choice.jsonata(scope, "Anything running?", outputs=NO_OUTPUT)
            .when(sfn.Condition.jsonata(jsonata("$emptying.step = 'empty'")), empty, assign={"emptying": NOT_BEGUN})
            .when(sfn.Condition.jsonata(jsonata("$emptying.step = 'hold'")), self.terminate)
        )
        end = states.end(scope)
        if end:
            anything.when(sfn.Condition.jsonata(jsonata("$count($staying) > 0")), in_order(end, then=wait))
        anything.otherwise(wait)
        wait.next(in_order(confirm, then=anything, caught=self.terminate))
        self.terminate.add_catch(lost, errors=[CONDITION_FAILED], assign=lost_assign).add_catch(wait).next(
            in_order(states.terminate(scope), then=wait)
        )


def _pause(looks: str, soon: int) -> str:
    """Return the expression of the seconds until the next poll, from the expression of the number of polls."""
    return f"({looks} < {SOON} ? {soon} : {max(soon, LATE_PAUSE_SECONDS)})"
