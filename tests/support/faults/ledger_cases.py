"""
DynamoDB's hiccups, once in every state of all three machines that calls it: a state that does not ask again is found.

A run on its own goes through the states of the run's machine, a stopped one through those of the clean-up, and one that
is stopped without the clean-up's rule through those of the reaper.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from horovod_client import Run
from horovod_client.run import STOPPED_ERROR
from horovod_local import ApiFault
from support.faults.expectations import BY_EVENT, BY_OUTAGE, BY_REAPER, SUCCESS, Bound, Expectation, FaultCase
from support.faults.lab import Lab
from support.faults.phases import Phase

HICCUPS: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "fails": {"*": ("InternalServerError", 500)},
    "throttles": {"*": ("ProvisionedThroughputExceededException", 400)},
    "reports a conflict": {
        "TransactWriteItems": ("TransactionCanceledException", 400),
        # "Operation was rejected because there is an ongoing transaction for the item" (DynamoDB Developer Guide,
        # "Amazon DynamoDB Transactions: How it works").
        "*Item": ("TransactionConflictException", 400),
    },
}
"""What DynamoDB does, to operations and the error's code and status."""


def _callers_of_dynamodb(lab: Lab) -> Iterator[str]:
    """Name every state that calls DynamoDB, of all deployed state machines."""
    stepfunctions = lab.cloud.client("stepfunctions")
    for machine in stepfunctions.list_state_machines()["stateMachines"]:
        described = stepfunctions.describe_state_machine(stateMachineArn=machine["stateMachineArn"])
        for name, state in _states(json.loads(described["definition"])):
            if ":dynamodb:" in state.get("Resource", ""):
                yield name


def _states(definition: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, state in definition["States"].items():
        yield name, state
        if "ItemProcessor" in state:
            yield from _states(state["ItemProcessor"])


def _once_in_every_state(hiccup: str) -> Callable[[Lab], AbstractContextManager[None]]:
    def before(lab: Lab) -> AbstractContextManager[None]:
        lab.put(
            failing=tuple(
                ApiFault(service="dynamodb", operation=operation, state=state, times=1, error=error, status=status)
                for state in dict.fromkeys(_callers_of_dynamodb(lab))
                for operation, (error, status) in HICCUPS[hiccup].items()
            )
        )
        return nullcontext()

    return before


def _go_on(_lab: Lab, _run: Run) -> None:
    """Do nothing more: the faults have been in force since before the run was started."""


def _stop(lab: Lab, run: Run) -> None:
    del lab
    run.stop()


def _stop_without_rule(lab: Lab, run: Run) -> None:
    lab.switch("clean-up", on=False)
    run.stop()


def _in(*phases: str, outcome: str, bound: Bound) -> Callable[[Phase], Expectation | None]:
    def expect(phase: Phase) -> Expectation | None:
        return Expectation(outcomes=(outcome,), bound=bound) if phase.name in phases else None

    return expect


LEDGER_CASES = tuple(
    case
    for hiccup in HICCUPS
    for case in (
        FaultCase(
            name=f"DynamoDB {hiccup} once in every state",
            act=_go_on,
            expect=_in("queueing", "training", outcome=SUCCESS, bound=BY_OUTAGE),
            ends_by_itself=True,
            before=_once_in_every_state(hiccup),
        ),
        FaultCase(
            name=f"DynamoDB {hiccup} once in every state, StopExecution",
            act=_stop,
            expect=_in("training", outcome=STOPPED_ERROR, bound=BY_EVENT),
            before=_once_in_every_state(hiccup),
        ),
        FaultCase(
            name=f"DynamoDB {hiccup} once in every state, clean-up rule lost, StopExecution",
            act=_stop_without_rule,
            expect=_in("training", outcome=STOPPED_ERROR, bound=BY_REAPER),
            before=_once_in_every_state(hiccup),
        ),
    )
)
