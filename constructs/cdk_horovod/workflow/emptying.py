"""The loop that empties a fleet, the same in a run and in the clean-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import CONDITION_FAILED, NO_OUTPUT, NOW, jsonata
from cdk_horovod.engines.engine import IFleetStates
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.workflow import lease

NOT_BEGUN: Final[Mapping[str, Any]] = {"held_at": 0, "looks": 0, "zeros": 0, "pause": 1, "step": "wait"}
"""`$emptying` before the loop; a state machine that has the loop sets it before."""

HOLD_AGAIN_SECONDS: Final = 300
"""How often the lease is renewed, and the order to go repeated. A lease that was taken holds for much longer."""
SOON: Final = 8
"""Looks at the shortest pause. Most instances are gone by then; for others it does to look once a minute."""
LATE_PAUSE_SECONDS: Final = 60
ZEROS: Final = 2
"""
Looks in a row, a pause apart, that must see nothing.

A launch that is under way between Auto Scaling's call and EC2's answer has no instance in the group yet, and the
group's description is eventually consistent.
"""


class Emptying:
    """
    Terminates until two looks at the fleet see that nothing runs; no error and no number of tries ends the loop.

    It begins with the lease: who no longer holds the fleet does not scale it. The lease is renewed and the order
    repeated every `HOLD_AGAIN_SECONDS`, and at once when a look fails or finds that capacity is wanted again. Between
    them are looks alone, each after a pause.

    Args:
        states: The engine's.
        ledger: Where the lease is.
        hold: How long the lease holds each time.
        pause: Between two looks, at first.
        empty: What follows when nothing runs.
        lost: What follows when somebody else holds the fleet.
        lost_assign: Variables set then.
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
        """Enter here, with `$emptying` set."""
        wait = sfn.Wait.jsonata(
            scope, "Wait for the nodes to go", time=sfn.WaitTime.seconds(jsonata("$emptying.pause")), outputs=NO_OUTPUT
        )
        terminate, launches, end = states.terminate(scope), states.look_for_launches(scope), states.end(scope)
        confirm = states.confirm(
            scope,
            judged=lambda running, wanted: {
                "emptying": jsonata(
                    f"""(
  $zeros := {running} = 0 and $launching = 0 ? $emptying.zeros + 1 : 0;
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

        self.terminate.add_catch(lost, errors=[CONDITION_FAILED], assign=lost_assign).add_catch(wait).next(terminate)
        terminate.add_catch(wait).next(wait)
        wait.next(launches)
        for look in (launches, confirm):
            look.add_catch(self.terminate)
        launches.next(confirm)
        end.add_catch(wait).next(wait)
        confirm.next(
            sfn.Choice.jsonata(scope, "Anything running?", outputs=NO_OUTPUT)
            .when(sfn.Condition.jsonata(jsonata("$emptying.step = 'empty'")), empty, assign={"emptying": NOT_BEGUN})
            .when(sfn.Condition.jsonata(jsonata("$emptying.step = 'hold'")), self.terminate)
            .when(sfn.Condition.jsonata(jsonata("$count($staying) > 0")), end)
            .otherwise(wait)
        )


def _pause(looks: str, soon: int) -> str:
    """Write the expression of the seconds until the next look, from that of the looks before."""
    return f"({looks} < {SOON} ? {soon} : {max(soon, LATE_PAUSE_SECONDS)})"
