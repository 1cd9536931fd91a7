"""Task tokens: answers, heartbeats, and the lifetime of a token."""

from __future__ import annotations

import json
from typing import Any

from horovod_local.corrections.registry import correction


@correction(
    moto="loses SendTaskFailure's cause, answers a late token with InvalidToken or accepts it without effect, and "
    "refuses a heartbeat before the task waits",
    aws="keeps the cause, answers TaskTimedOut once the task is over, and accepts heartbeats as soon as a token exists",
)
def tokens_are_answered() -> None:
    from moto.core.responses import EmptyResult
    from moto.stepfunctions.parser.api import InvalidOutput, InvalidToken, TaskTimedOut
    from moto.stepfunctions.parser.asl.eval.callback.callback import CallbackOutcomeFailure, CallbackOutcomeSuccess
    from moto.stepfunctions.responses import StepFunctionResponse

    def endpoint_of(self: Any) -> Any:
        endpoint = _endpoint(self.stepfunction_backend, self._get_param("taskToken"))
        if endpoint is None:
            raise InvalidToken()
        if getattr(endpoint, "over", False):
            raise TaskTimedOut("Task Timed Out: 'Provided task does not exist anymore'")
        return endpoint

    def send_task_heartbeat(self: Any) -> Any:
        endpoint_of(self).notify_heartbeat()
        return EmptyResult()

    def send_task_success(self: Any) -> Any:
        endpoint, output = endpoint_of(self), self._get_param("output")
        try:
            json.loads(output)
        except ValueError as error:
            raise InvalidOutput(f"Invalid Output: '{error}'") from error
        endpoint.notify(CallbackOutcomeSuccess(callback_id=endpoint.callback_id, output=output))
        return EmptyResult()

    def send_task_failure(self: Any) -> Any:
        endpoint = endpoint_of(self)
        error, cause = self._get_param("error") or "", self._get_param("cause") or ""
        endpoint.notify(CallbackOutcomeFailure(callback_id=endpoint.callback_id, error=error, cause=cause))
        return EmptyResult()

    StepFunctionResponse.send_task_heartbeat = send_task_heartbeat
    StepFunctionResponse.send_task_success = send_task_success
    StepFunctionResponse.send_task_failure = send_task_failure


@correction(
    moto="gives every attempt of a retried task the token of the first, which was already answered",
    aws="gives each attempt a new token, which is valid only during that attempt",
)
def every_attempt_has_its_own_token() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.resource import ResourceCondition
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_callback import (
        StateTaskServiceCallback,
    )

    evaluate_with_timeout = StateTaskServiceCallback._evaluate_with_timeout

    def attempt(self: Any, env: Any) -> None:
        if self.resource.condition is not ResourceCondition.WaitForTaskToken:
            evaluate_with_timeout(self, env)
            return
        context = env.states.context_object
        if context.context_object_data["State"]["RetryCount"]:
            env.callback_pool_manager.add(context.update_task_token())
        endpoint = env.callback_pool_manager.get(context.context_object_data["Task"]["Token"])
        try:
            evaluate_with_timeout(self, env)
        finally:
            endpoint.over = True
            endpoint.interrupt_all()

    StateTaskServiceCallback._evaluate_with_timeout = attempt


@correction(
    moto="loses an answer that arrives before the task waits for heartbeats, and then reports missed heartbeats",
    aws="accepts an answer as soon as there is a token",
)
def early_answers_are_heard() -> None:
    from moto.stepfunctions.parser.asl.eval.callback.callback import CallbackEndpoint

    setup_heartbeat_endpoint = CallbackEndpoint.setup_heartbeat_endpoint

    def watch(self: Any, heartbeat_seconds: int) -> Any:
        heartbeats = setup_heartbeat_endpoint(self, heartbeat_seconds)
        # An answer sets this event before it notifies the heartbeat endpoint, so it is seen here or wakes the task.
        if self._notify_event.is_set():
            heartbeats.notify()
        return heartbeats

    CallbackEndpoint.setup_heartbeat_endpoint = watch


@correction(
    moto="matches a missed heartbeat with States.Timeout only",
    aws="also matches it with States.HeartbeatTimeout, while reporting it as States.Timeout",
)
def missed_heartbeats_match_both_names() -> None:
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_callback import (
        StateTaskServiceCallback,
    )
    from moto.stepfunctions.parser.asl.eval.callback.callback import HeartbeatTimeoutError

    class MissedHeartbeat(StatesErrorName):  # type: ignore[misc]  # moto is untyped
        def matches(self, error_name: str | None) -> bool:
            return error_name in ("States.Timeout", "States.HeartbeatTimeout")

    from_error = StateTaskServiceCallback._from_error

    def translate(self: Any, env: Any, ex: Exception) -> Any:
        event = from_error(self, env, ex)
        if isinstance(ex, HeartbeatTimeoutError):
            event.error_name = MissedHeartbeat(typ=StatesErrorNameType.StatesTimeout)
        return event

    StateTaskServiceCallback._from_error = translate


def _endpoint(backend: Any, token: str) -> Any:
    """Return the callback endpoint of *token*; None if no execution has given out such a token."""
    for execution in backend._get_executions():
        # An execution that has just been started has no environment yet, and so has given out no token.
        env = execution.exec_worker.env if execution.exec_worker else None
        endpoint = env.callback_pool_manager.get(token) if env else None
        if endpoint is not None:
            endpoint.over = getattr(endpoint, "over", False) or execution.status != "RUNNING"
            return endpoint
    return None


CORRECTIONS = (
    tokens_are_answered,
    every_attempt_has_its_own_token,
    early_answers_are_heard,
    missed_heartbeats_match_both_names,
)
