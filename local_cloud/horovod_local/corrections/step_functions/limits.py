"""Quotas of state machines that moto does not enforce (Developer Guide, "Step Functions service quotas")."""

from __future__ import annotations

import json
from typing import Any, Final

from horovod_local.corrections.registry import correction

MAX_EVENTS: Final = 25_000
"""Events of one execution: "If the execution history reaches this quota, the execution will fail"."""
MAX_PAYLOAD_BYTES: Final = 256 * 1024
"""Size of an input, a result, or all variables of one Assign ("Passing data between states with variables")."""


@correction(
    moto="lets an execution's history grow without limit",
    aws="fails the execution when its history has 25,000 events",
)
def histories_have_a_limit() -> None:
    from moto.stepfunctions.parser.asl.component.state.state import CommonStateField

    evaluate_state = CommonStateField._eval_body

    def evaluate(self: Any, env: Any) -> None:
        # Entering and leaving a state takes at least two more events, and the execution's end one.
        if len(env.event_manager._history_event_list) > MAX_EVENTS - 3:
            why = f"The execution reached the maximum number of history events ({MAX_EVENTS})."
            raise _failure(env, "States.Runtime", why)
        evaluate_state(self, env)

    CommonStateField._eval_body = evaluate


@correction(
    moto="accepts an execution's input, a task's arguments and variables of any size",
    aws="accepts 256 KiB of each; the variables of one Assign count together",
)
def payloads_have_limits() -> None:
    from moto.stepfunctions.exceptions import AWSError
    from moto.stepfunctions.parser.asl.component.common.assign.assign_decl import AssignDecl
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (
        StateTaskService,
    )
    from moto.stepfunctions.parser.models import StepFunctionsParserBackend

    start_execution = StepFunctionsParserBackend.start_execution

    class InputTooLongError(AWSError):  # type: ignore[misc]  # moto is untyped
        TYPE = "ValidationException"

    def start(self: Any, state_machine_arn: str, name: Any = None, execution_input: Any = None, *rest: Any) -> Any:
        if len((execution_input or "").encode()) > MAX_PAYLOAD_BYTES:
            raise InputTooLongError(
                "1 validation error detected: Value at 'input' failed to satisfy constraint: Member must have length "
                f"less than or equal to {MAX_PAYLOAD_BYTES}"
            )
        return start_execution(self, state_machine_arn, name, execution_input, *rest)

    StepFunctionsParserBackend.start_execution = start

    evaluate_assign = AssignDecl._eval_body

    def assign(self: Any, env: Any) -> None:
        before = dict(env.variable_store._inner_scope)
        evaluate_assign(self, env)
        after = env.variable_store._inner_scope
        _check(env, {name: value for name, value in after.items() if name not in before or before[name] is not value})

    AssignDecl._eval_body = assign

    before_execution = StateTaskService._before_eval_execution

    def check_arguments(self: Any, env: Any, *, raw_parameters: Any, **others: Any) -> None:
        _check(env, raw_parameters)
        before_execution(self, env=env, raw_parameters=raw_parameters, **others)

    StateTaskService._before_eval_execution = check_arguments


def _check(env: Any, value: Any) -> None:
    if len(json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str).encode()) > MAX_PAYLOAD_BYTES:
        why = f"The state/task '{env.next_state_name}' has data with a size exceeding the maximum number of bytes"
        raise _failure(env, "States.DataLimitExceeded", f"{why} service limit.")


def _failure(env: Any, error: str, cause: str) -> Exception:
    from moto.stepfunctions.parser.api import ExecutionFailedEventDetails, HistoryEventType
    from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
        FailureEvent,
        FailureEventException,
    )
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
    from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails

    details = ExecutionFailedEventDetails(error=error, cause=cause)
    failure: Exception = FailureEventException(
        FailureEvent(
            env=env,
            error_name=StatesErrorName(typ=StatesErrorNameType.from_name(error)),
            event_type=HistoryEventType.ExecutionFailed,
            event_details=EventDetails(executionFailedEventDetails=details),
        )
    )
    return failure


CORRECTIONS = (histories_have_a_limit, payloads_have_limits)
