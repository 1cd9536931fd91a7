"""
TestState: one state of a definition, run by the interpreter of the executions with a mocked result.

Source of the rules: AWS Step Functions API Reference, "TestState", "MockInput" and "TestStateConfiguration"; Developer
Guide, "Testing state machines with TestState API".
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from horovod_client.aws.java_names import SDK_RESOURCE, operation_model
from horovod_local.corrections.registry import correction
from horovod_local.corrections.step_functions.mock_check import why_not_of

MOCKED: Final = ("Task", "Map", "Parallel")
"""Types of states that take a mock ("A mock can only be specified for Task, Map, or Parallel states")."""
NAME: Final = "TestState"
"""Of a state that is given alone, and of the execution that its context tells of."""
MOCKED_TOKEN: Final = "mocked-task-token"  # noqa: S105 - it opens nothing


class Refused(Exception):  # noqa: N818 - it is AWS's answer
    """
    TestState does not take the request.

    Args:
        message: Why, for people.
        kind: Name of the error, one of those that the API Reference lists.
    """

    def __init__(self, message: str, *, kind: str = "ValidationException") -> None:
        self.kind = kind
        super().__init__(message)


class _Retriable(Exception):  # noqa: N818 - it is no failure of ours
    """A retrier takes the mocked error, so that the state would be tried again."""

    def __init__(self, *, index: int, seconds: int, error: str, cause: str) -> None:
        self.index, self.seconds, self.error, self.cause = index, seconds, error, cause


@dataclass(frozen=True, kw_only=True)
class _Mock:
    """What the state's work gives: a result, or an error with a cause and the retries that there were."""

    result: Any = None
    error: str | None = None
    cause: str = ""
    retries: int = 0


@correction(
    moto="does not answer TestState",
    aws="runs one state of a definition, with a result that the caller mocks and that is checked against its API",
)
def states_are_tested() -> None:
    from moto.core.responses import ActionResult
    from moto.stepfunctions.parser import api
    from moto.stepfunctions.responses import StepFunctionResponse

    def answer(self: Any) -> Any:
        try:
            return ActionResult(run_state(self._get_param, account=self.current_account, region=self.region))
        except Refused as refusal:
            raise getattr(api, refusal.kind)(str(refusal)) from refusal

    StepFunctionResponse.test_state = answer


def run_state(ask: Any, *, account: str, region: str) -> dict[str, Any]:
    """
    Answer a request of TestState.

    Args:
        ask: Gives a parameter of the request by its name, or None.
        account: Account of the caller.
        region: Region that was asked.

    Raises:
        Refused: If AWS would not take the request.
    """
    definition = _read(ask("definition"), "definition", kind="InvalidDefinition")
    name, state = _find(definition, ask("stateName"))
    mock, given = _mock(ask, state), _context(ask)
    started = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    arn = f"arn:aws:states:{region}:{account}"
    text = ask("input") or "{}"
    value = _read(text, "input", kind="InvalidExecutionInput")
    context = {
        "Execution": {
            "Id": f"{arn}:execution:{NAME}:{NAME}",
            "Input": value,
            "Name": NAME,
            "RoleArn": ask("roleArn") or f"arn:aws:iam::{account}:role/{NAME}",
            "StartTime": started,
            "RedriveCount": 0,
            **given.get("Execution", {}),
        },
        "StateMachine": {"Id": f"{arn}:stateMachine:{NAME}", "Name": NAME, **given.get("StateMachine", {})},
        **{key: item for key, item in given.items() if key in ("Map", "Task")},
    }
    variables = _read(ask("variables") or "{}", "variables")
    env = _environment(context, account=account, region=region)
    for key, item in variables.items():
        env.variable_store.set(key, item)
    env.states.reset(value)
    component = _component(name, state)
    env.next_state_name = name
    inspection: dict[str, Any] = {"input": text}
    if mock is not None:
        _put_mock(component, mock, env=env, state=state, inspection=inspection)
    outcome = _evaluate(component, env, name=name, inspection=inspection)
    if ask("inspectionLevel") in ("DEBUG", "TRACE"):
        outcome["inspectionData"] = {**inspection, "variables": _text(env.variable_store._inner_scope)}
    return outcome


def _find(definition: Mapping[str, Any], name: str | None) -> tuple[str, dict[str, Any]]:
    """Find the state to test, and write into it the query language that its machine gives it."""
    language = {key: definition[key] for key in ("QueryLanguage",) if key in definition}
    if name is None:
        if "Type" not in definition:
            raise Refused("The definition is that of a state machine: 'stateName' must say which state to test.")
        return NAME, dict(definition)
    for key, state in _states(definition):
        if key == name:
            return key, {**language, **state}
    raise Refused(f"State '{name}' does not exist in the definition.")


def _states(machine: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, state in machine.get("States", {}).items():
        yield name, state
        for inner in (state.get("ItemProcessor", {}), state.get("Iterator", {}), *state.get("Branches", ())):
            yield from _states(inner)


def _mock(ask: Any, state: Mapping[str, Any]) -> _Mock | None:
    given = ask("mock")
    kind, resource = str(state.get("Type")), str(state.get("Resource", ""))
    if given is None:
        if kind in MOCKED[1:] or resource.endswith((".sync", ".sync:2", ".waitForTaskToken")):
            raise Refused(f"A state of type {kind} with this resource can only be tested with a mock.")
        if kind == "Task":
            raise Refused("The local cloud tests a Task with a mock only.")
        return None
    if kind not in MOCKED:
        raise Refused(f"A mock can only be specified for Task, Map, or Parallel states, and not for {kind}.")
    error = given.get("errorOutput")
    if (error is None) == (given.get("result") is None):
        raise Refused("A mock must have either a result or an errorOutput.")
    if error is not None:
        retries = (ask("stateConfiguration") or {}).get("retrierRetryCount", 0)
        return _Mock(error=error["error"], cause=error.get("cause", ""), retries=retries)
    result = _read(given["result"], "mock.result")
    if kind != "Task":
        if not isinstance(result, list):
            raise Refused(f"The mocked result of a {kind} state must be an array.")
        return _Mock(result=result)
    why = _why_not(result, resource, mode=given.get("fieldValidationMode") or "STRICT")
    if why is not None:
        raise Refused(f"Mock result schema validation error: {why}")
    return _Mock(result=result)


def _why_not(result: Any, resource: str, *, mode: str) -> str | None:
    call = SDK_RESOURCE.match(resource)
    if mode == "NONE" or call is None or call[3]:
        # What comes back by a token is the answer of whoever has it: no API describes it.
        return None
    operation = operation_model(call[1], call[2])
    if operation is None:
        return f"the resource {resource} is not recognized."
    return why_not_of(result, operation.output_shape, required=mode == "STRICT")


def _context(ask: Any) -> dict[str, Any]:
    text = ask("context")
    if text is None:
        return {}
    if ask("mock") is None:
        raise Refused("A context may only be specified if a mock is specified in the same request.")
    context: dict[str, Any] = _read(text, "context")
    return context


def _environment(context: dict[str, Any], *, account: str, region: str) -> Any:
    from moto.stepfunctions.parser.api import StateMachineType
    from moto.stepfunctions.parser.asl.eval.environment import Environment
    from moto.stepfunctions.parser.asl.eval.evaluation_details import AWSExecutionDetails
    from moto.stepfunctions.parser.asl.eval.event.event_manager import EventHistoryContext

    return Environment(
        aws_execution_details=AWSExecutionDetails(
            account=account, region=region, role_arn=context["Execution"]["RoleArn"]
        ),
        execution_type=StateMachineType.STANDARD,
        context=context,
        event_history_context=EventHistoryContext.of_program_start(),
        cloud_watch_logging_session=None,
        activity_store={},
    )


def _component(name: str, state: Mapping[str, Any]) -> Any:
    """Parse the state as the only one of a machine, which its transitions may leave."""
    from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser, ASLParserException

    machine = {"StartAt": name, "States": {name: state}}
    try:
        program, _ = AmazonStateLanguageParser.parse(json.dumps(machine))
    except (ASLParserException, ValueError, RuntimeError) as error:
        raise Refused(f"Invalid State Machine Definition: '{error}'", kind="InvalidDefinition") from error
    return program.states.states[name]


def _put_mock(component: Any, mock: _Mock, *, env: Any, state: Mapping[str, Any], inspection: dict[str, Any]) -> None:
    """Let the state do all that it does, but for its work, whose place the mock takes."""
    from moto.stepfunctions.parser.asl.component.state.exec.execute_state import ExecutionState

    def work(env: Any) -> None:
        if state["Type"] == "Task":
            inspection["afterArguments"] = _text(component._eval_parameters(env=env))
        if state["Type"] == "Map":
            items = _items(component, env)
            inspection["afterItemSelector"] = _text(items)
            if mock.error is None and len(mock.result) != len(items):
                raise Refused(
                    f"The mocked result has {len(mock.result)} elements, but the Map state {len(items)} iterations."
                )
        if component.heartbeat is not None:
            component.heartbeat.eval(env=env)
            env.stack.pop()
        if mock.error is not None:
            raise _failure(env, error=mock.error, cause=mock.cause)
        env.stack.append(copy.deepcopy(mock.result))
        inspection["result"] = _text(mock.result)

    def retry(env: Any, failure_event: Any) -> Any:
        from moto.stepfunctions.parser.asl.component.common.retry.retry_outcome import RetryOutcome

        for index, retrier in enumerate(component.retry.retriers):
            if _matches(retrier.error_equals, failure_event.error_name, env):
                if mock.retries >= retrier.max_attempts.attempts:
                    return RetryOutcome.CannotRetry
                pause = retrier.interval_seconds.seconds * retrier.backoff_rate.rate**mock.retries
                told = component._construct_error_output_value(failure_event)
                seconds = int(min(pause, retrier.max_delay_seconds.max_delays_seconds))
                raise _Retriable(index=index, seconds=seconds, error=told["Error"], cause=told["Cause"])
        return RetryOutcome.NoRetrier

    handle_catch = component._handle_catch

    def catch(env: Any, failure_event: Any) -> None:
        indexes = range(len(component.catch.catchers))
        matching = (
            i for i in indexes if _matches(component.catch.catchers[i].error_equals, failure_event.error_name, env)
        )
        index = next(matching, None)
        if index is not None:
            inspection["errorDetails"] = {"catchIndex": index}
            inspection["caught"] = component._construct_error_output_value(failure_event)
        handle_catch(env=env, failure_event=failure_event)

    component._eval_execution = work
    # Of a task with a token this waits for whoever answers.
    component._evaluate_with_timeout = functools.partial(ExecutionState._evaluate_with_timeout, component)
    component._handle_retry = retry
    component._handle_catch = catch
    if str(state.get("Resource", "")).endswith(".waitForTaskToken"):
        env.states.context_object.context_object_data.setdefault("Task", {"Token": MOCKED_TOKEN})


def _items(component: Any, env: Any) -> list[Any]:
    """Evaluate what a Map state goes through, each item as its selector makes it."""
    if component.items is None:
        raise Refused("The local cloud tests a Map state in JSONata with Items only.")
    component.items.eval(env=env)
    items = env.stack.pop()
    if not isinstance(items, list):
        raise _failure(env, error="States.QueryEvaluationError", cause=f"Map state input must be an array: {items}")
    if component.item_selector is None:
        return items
    selected = []
    for index, item in enumerate(items):
        env.states.context_object.context_object_data["Map"] = {"Item": {"Index": index, "Value": item}}
        component.item_selector.eval(env=env)
        selected.append(env.stack.pop())
    env.states.context_object.context_object_data.pop("Map", None)
    return selected


def _evaluate(component: Any, env: Any, *, name: str, inspection: dict[str, Any]) -> dict[str, Any]:
    from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEventException
    from moto.stepfunctions.parser.asl.eval.program_state import ProgramRunning

    try:
        component.eval(env)
    except _Retriable as error:
        inspection["errorDetails"] = {
            "retryIndex": error.index,
            "retryBackoffIntervalSeconds": error.seconds,
        }
        return {"status": "RETRIABLE", "error": error.error, "cause": error.cause}
    except FailureEventException as failure:
        said, cause = failure.extract_error_cause_pair() or (None, None)
        return {"status": "FAILED", "error": said or "States.Runtime", "cause": cause or ""}
    except Refused:
        raise
    except Exception as error:  # as the program around the states does
        return {"status": "FAILED", "error": "States.Runtime", "cause": str(error)}
    outcome: dict[str, Any] = {"status": "SUCCEEDED", "output": _text(env.states.get_input())}
    caught = inspection.pop("caught", None)
    if caught is not None:
        outcome |= {"status": "CAUGHT_ERROR", "error": caught["Error"], "cause": caught["Cause"]}
    if isinstance(env.program_state(), ProgramRunning) and env.next_state_name != name:
        outcome["nextState"] = env.next_state_name
    return outcome


def _matches(equals: Any, error_name: Any, env: Any) -> bool:
    env.stack.append(error_name)
    equals.eval(env)
    return bool(env.stack.pop())


def _failure(env: Any, *, error: str, cause: str) -> Exception:
    from moto.stepfunctions.parser.api import HistoryEventType, TaskFailedEventDetails
    from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
    from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
        FailureEvent,
        FailureEventException,
    )
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
    from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails

    name = StatesErrorName.from_name(error) if error.startswith("States.") else CustomErrorName(error)
    event = FailureEvent(
        env=env,
        error_name=name,
        event_type=HistoryEventType.TaskFailed,
        event_details=EventDetails(taskFailedEventDetails=TaskFailedEventDetails(error=error, cause=cause)),
    )
    failure: Exception = FailureEventException(event)
    return failure


def _read(text: str, what: str, *, kind: str = "ValidationException") -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refused(f"'{what}' must be JSON: {error}", kind=kind) from error


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


CORRECTIONS = (states_are_tested,)
