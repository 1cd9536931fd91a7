"""The loop that empties a fleet, the same in a run, in the clean-up and in the reaper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.engines.engine import IFleetStates
from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow import lease
from cdk_horovod.workflow.states import CONDITION_FAILED, NO_OUTPUT, jsonata


class Emptying:
    """
    Terminates until a look at the fleet confirms that nothing runs; no error and no number of tries ends the loop.

    Every turn begins with the lease: who no longer holds the fleet does not scale it.

    Args:
        states: The engine's.
        ledger: Where the lease is.
        hold: How long the lease holds in each turn.
        pause: Between two turns.
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
        wait = sfn.Wait.jsonata(scope, "Wait for the nodes to go", time=sfn.WaitTime.duration(pause), outputs=NO_OUTPUT)
        self.terminate = lease.hold(scope, ledger=ledger, seconds=hold)
        """Enter here to terminate what runs."""
        self.confirm = states.confirm(scope)
        """Enter here to terminate only if something runs."""
        terminate, unprotect = states.terminate(scope), states.unprotect(scope)

        self.terminate.add_catch(lost, errors=[CONDITION_FAILED], assign=lost_assign).add_catch(wait).next(
            # A protected instance survives a capacity of 0.
            sfn.Choice.jsonata(scope, "Nodes protected?", outputs=NO_OUTPUT)
            .when(sfn.Condition.jsonata(jsonata("$count($protected) > 0")), unprotect)
            .otherwise(terminate)
        )
        unprotect.add_catch(terminate).next(terminate)
        terminate.add_catch(wait).next(self.confirm)
        self.confirm.add_catch(wait).next(
            sfn.Choice.jsonata(scope, "Anything running?", outputs=NO_OUTPUT)
            .when(sfn.Condition.jsonata(jsonata("$running > 0")), wait)
            .otherwise(empty)
        )
        wait.next(self.terminate)
