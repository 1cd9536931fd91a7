"""Executions of a state machine: names, times, stopping, descriptions and error codes."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from horovod_local.corrections.registry import correction
from horovod_local.corrections.step_functions.tasks import iso

BEGIN_SECONDS: Final = 60.0
"""Longest wait for a new execution's thread, which begins within milliseconds unless the machine is loaded."""


@correction(moto="gives no name to an execution that is started without one", aws="names it with a UUID")
def executions_are_named() -> None:
    from moto.stepfunctions.parser.models import StepFunctionsParserBackend

    start_execution = StepFunctionsParserBackend.start_execution

    def start(
        self: Any,
        state_machine_arn: str,
        name: str | None = None,
        execution_input: str | None = None,
        trace_header: Any = None,
    ) -> Any:
        return start_execution(self, state_machine_arn, name or str(uuid.uuid4()), execution_input, trace_header)

    StepFunctionsParserBackend.start_execution = start


@correction(
    moto="sets StartTime in $states.context to a datetime, which breaks DescribeExecution, and no RedriveCount",
    aws="sets StartTime to ISO 8601 text, and RedriveCount to 0",
)
def context_holds_json() -> None:
    from moto.stepfunctions.parser.backend.execution_worker import ExecutionWorker

    environment = ExecutionWorker._get_evaluation_environment

    def evaluation_environment(self: Any) -> Any:
        env = environment(self)
        execution = env.states.context_object.context_object_data["Execution"]
        execution["StartTime"] = iso(execution["StartTime"])
        execution.setdefault("RedriveCount", 0)
        return env

    ExecutionWorker._get_evaluation_environment = evaluation_environment


@correction(
    moto="writes a state's EnteredTime in $states.context with microseconds and the offset +00:00",
    aws="writes it with milliseconds and Z",
)
def states_are_entered_in_utc() -> None:
    from moto.stepfunctions.parser.asl.component.state.state import CommonStateField

    state_input = CommonStateField._eval_state_input

    def evaluate_input(self: Any, env: Any) -> None:
        # A state calls this first, right after it has set EnteredTime.
        entered = env.states.context_object.context_object_data["State"]
        entered["EnteredTime"] = iso(datetime.fromisoformat(entered["EnteredTime"]))
        state_input(self, env)

    CommonStateField._eval_state_input = evaluate_input


@correction(
    moto="reports a stopped execution as RUNNING until its task ends, then as FAILED",
    aws="reports ABORTED at once, with the given error and cause, and cancels the task",
)
def stopping_aborts_at_once() -> None:
    from moto.core.responses import ActionResult
    from moto.stepfunctions.parser.api import ExecutionStatus
    from moto.stepfunctions.parser.asl.eval.environment import Environment
    from moto.stepfunctions.parser.asl.eval.program_state import ProgramStopped, ProgramTimedOut
    from moto.stepfunctions.parser.backend.execution import BaseExecutionWorkerCommunication
    from moto.stepfunctions.responses import StepFunctionResponse

    set_error = Environment.set_error

    def keep_the_first_end(self: Any, error: Any) -> None:
        if not isinstance(self._program_state, ProgramStopped | ProgramTimedOut):
            set_error(self, error)

    Environment.set_error = keep_the_first_end

    terminated = BaseExecutionWorkerCommunication.terminated

    def terminate_once(self: Any) -> None:
        if self.execution.exec_status is ExecutionStatus.RUNNING:
            terminated(self)

    BaseExecutionWorkerCommunication.terminated = terminate_once

    def stop_execution(self: Any) -> Any:
        execution = self.stepfunction_backend.describe_execution(self._get_param("executionArn"))
        if execution.exec_status is ExecutionStatus.RUNNING and _has_begun(execution):
            error, cause = self._get_param("error"), self._get_param("cause")
            execution.stop(stop_date=datetime.now(UTC), error=error, cause=cause)
            execution.error, execution.cause = error, cause
            # The worker thread may still sleep through the interval of a Retry.
            execution.exec_worker._execution_communication.terminated()
            _interrupt_tasks(execution.exec_worker.env)
        return ActionResult({"stopDate": execution.stop_date})

    StepFunctionResponse.stop_execution = stop_execution


@correction(
    moto="leaves a task waiting for its token when the execution reaches its TimeoutSeconds",
    aws="cancels the task",
)
def timing_out_cancels_tasks() -> None:
    from moto.stepfunctions.parser.asl.eval.environment import Environment

    set_timed_out = Environment.set_timed_out

    def time_out(self: Any) -> None:
        set_timed_out(self)
        _interrupt_tasks(self)

    Environment.set_timed_out = time_out


@correction(
    moto="lets a nested execution run on when the task that waits for it is aborted",
    aws="calls StopExecution with the state machine's role, and carries on if that is refused",
)
def aborted_tasks_stop_their_executions() -> None:
    """
    Source: Step Functions Developer Guide, "Discover service integration patterns", "Run a Job (.sync)".

    A task is aborted when its execution is stopped, or another branch of a Parallel state or another iteration of a Map
    state fails with an uncaught error. The guide does not mention an execution that times out.
    """
    from botocore.exceptions import ClientError
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_sfn import (
        StateTaskServiceSfn,
    )
    from moto.stepfunctions.parser.asl.eval.program_state import ProgramStopped
    from moto.stepfunctions.parser.asl.utils.boto_client import boto_client_for

    wait = StateTaskServiceSfn._eval_sync

    def wait_or_stop(self: Any, env: Any, *, sync_resolver: Any, **endpoints: Any) -> Any:
        outcome = wait(self, env=env, sync_resolver=sync_resolver, **endpoints)
        # Stopping an execution that has just ended changes nothing.
        if isinstance(env.program_state(), ProgramStopped):
            with contextlib.suppress(ClientError):
                sync_resolver.client.stop_execution(executionArn=sync_resolver.execution)
        return outcome

    StateTaskServiceSfn._eval_sync = wait_or_stop

    def with_execution(build: Any) -> Any:
        def resolver(self: Any, env: Any, resource_runtime_part: Any, **arguments: Any) -> Any:
            execution = env.stack[-1]["ExecutionArn"]
            resolve = build(self, env=env, resource_runtime_part=resource_runtime_part, **arguments)
            resolve.execution = execution
            resolve.client = boto_client_for(
                service="stepfunctions",
                region=resource_runtime_part.region,
                state_credentials=arguments["state_credentials"],
            )
            return resolve

        return resolver

    StateTaskServiceSfn._build_sync_resolver = with_execution(StateTaskServiceSfn._build_sync_resolver)
    StateTaskServiceSfn._build_sync2_resolver = with_execution(StateTaskServiceSfn._build_sync2_resolver)


def _has_begun(execution: Any) -> bool:
    """Wait until the thread of *execution* runs it, before which there is nothing to stop; False after a timeout."""
    until = time.monotonic() + BEGIN_SECONDS
    while time.monotonic() < until:
        env = execution.exec_worker.env
        if env is not None and env.program_state() is not None:
            return True
        time.sleep(0.01)
    return False


def _interrupt_tasks(env: Any) -> None:
    for endpoint in list(env.callback_pool_manager._pool.values()):
        endpoint.interrupt_all()


@correction(
    moto="returns an output that is a text unquoted, and no stopDate of an execution that timed out",
    aws="returns every output as JSON, and the stopDate of every execution that has ended",
)
def executions_are_described_as_json() -> None:
    from moto.stepfunctions.responses import StepFunctionResponse

    describe = StepFunctionResponse.describe_execution

    def describe_execution(self: Any) -> Any:
        answer = describe(self)
        execution = self.stepfunction_backend.describe_execution(self._get_param("executionArn"))
        if execution.status == "SUCCEEDED":
            answer.result["output"] = json.dumps(execution.output, separators=(",", ":"), ensure_ascii=False)
        if execution.stop_date is not None:
            answer.result["stopDate"] = execution.stop_date
        return answer

    StepFunctionResponse.describe_execution = describe_execution


@correction(
    moto="refuses a definition, an answer or a token with 500 or without an error code",
    aws="returns an error code, such as InvalidDefinition, InvalidToken or TaskTimedOut",
)
def refusals_are_named() -> None:
    from moto.stepfunctions.exceptions import AWSError
    from moto.stepfunctions.parser import api

    def initialise(self: Any, message: str | None = None) -> None:
        AWSError.__init__(self, message or type(self).__dict__.get("message") or self.TYPE)

    classes: dict[str, Any] = {name: item for name, item in vars(api).items() if isinstance(item, type)}
    for name, item in classes.items():
        if issubclass(item, AWSError) and item is not AWSError:
            # moto puts the name into `code`, which the base class overwrites with the HTTP status.
            item.TYPE = name
            item.__init__ = initialise


CORRECTIONS = (
    executions_are_named,
    context_holds_json,
    states_are_entered_in_utc,
    stopping_aborts_at_once,
    timing_out_cancels_tasks,
    aborted_tasks_stop_their_executions,
    executions_are_described_as_json,
    refusals_are_named,
)
