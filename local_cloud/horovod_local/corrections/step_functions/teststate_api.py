"""
The TestState API: runs one state of a definition in moto's interpreter, with a mocked result.

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
from horovod_local.corrections.step_functions.mock_validation import schema_violation

MOCKED: Final = ("Task", "Map", "Parallel")
"""State types that accept a mock ("A mock can only be specified for Task, Map, or Parallel states")."""
NAME: Final = "TestState"
"""Name of a state that is given alone, and of the execution in its context object."""
MOCKED_TOKEN: Final = "mocked-task-token"  # noqa: S105 - not a secret


class RequestRefused(Exception):  # noqa: N818 - it is AWS's answer
    """
    TestState refuses the request.

    Args:
        message: The reason.
        error: Name of the error, one of those that the API Reference lists.
    """

    def __init__(self, message: str, *, error: str = "ValidationException") -> None:
        self.error = error
        super().__init__(message)


class _Retriable(Exception):  # noqa: N818 - it ends the test with the status RETRIABLE
    """A retrier matches the mocked error, so the state would be retried."""

    def __init__(self, *, index: int, seconds: int, error: str, cause: str) -> None:
        self.index, self.seconds, self.error, self.cause = index, seconds, error, cause


@dataclass(frozen=True, kw_only=True)
class _Mock:
    """The mocked outcome of a state: a result, or an error with its cause and the number of retries so far."""

    result: Any = None
    error: str | None = None
    cause: str = ""
    retries: int = 0


@correction(
    moto="does not answer TestState",
    aws="runs one state of a definition with a mocked result, which it validates against the API's schema",
)
def teststate_runs_one_state() -> None:
    from moto.core.responses import ActionResult
    from moto.stepfunctions.parser import api
    from moto.stepfunctions.responses import StepFunctionResponse

    def answer(self: Any) -> Any:
        try:
            return ActionResult(run_state(self._get_param, account=self.current_account, region=self.region))
        except RequestRefused as refusal:
            raise getattr(api, refusal.error)(str(refusal)) from refusal

    StepFunctionResponse.test_state = answer


def run_state(parameter: Any, *, account: str, region: str) -> dict[str, Any]:
    """
    Answer a TestState request.

    Args:
        parameter: Returns a parameter of the request by its name, or None.
        account: Account of the caller.
        region: Region of the request.

    Raises:
        RequestRefused: If AWS would refuse the request.
    """
    definition = _read(parameter("definition"), "definition", error="InvalidDefinition")
    name, state = _find(definition, parameter("stateName"))
    mock, given = _mock(parameter, state), _context(parameter)
    started = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    arn = f"arn:aws:states:{region}:{account}"
    text = parameter("input") or "{}"
    value = _read(text, "input", error="InvalidExecutionInput")
    context = {
        "Execution": {
            "Id": f"{arn}:execution:{NAME}:{NAME}",
            "Input": value,
            "Name": NAME,
            "RoleArn": parameter("roleArn") or f"arn:aws:iam::{account}:role/{NAME}",
            "StartTime": started,
            "RedriveCount": 0,
            **given.get("Execution", {}),
        },
        "StateMachine": {"Id": f"{arn}:stateMachine:{NAME}", "Name": NAME, **given.get("StateMachine", {})},
        **{key: item for key, item in given.items() if key in ("Map", "Task")},
    }
    variables = _read(parameter("variables") or "{}", "variables")
    env = _environment(context, account=account, region=region)
    for key, item in variables.items():
        env.variable_store.set(key, item)
    env.states.reset(value)
    component = _component(name, state)
    env.next_state_name = name
    inspection: dict[str, Any] = {"input": text}
    if mock is not None:
        _install_mock(component, mock, env=env, state=state, inspection=inspection)
    outcome = _evaluate(component, env, name=name, inspection=inspection)
    if parameter("inspectionLevel") in ("DEBUG", "TRACE"):
        outcome["inspectionData"] = {**inspection, "variables": _text(env.variable_store._inner_scope)}
    return outcome


def _find(definition: Mapping[str, Any], name: str | None) -> tuple[str, dict[str, Any]]:
    """Return name and definition of the state to test, with the query language of its state machine."""
    language = {key: definition[key] for key in ("QueryLanguage",) if key in definition}
    if name is None:
        if "Type" not in definition:
            raise RequestRefused("The definition is that of a state machine: 'stateName' must name the state to test.")
        return NAME, dict(definition)
    for key, state in _states(definition):
        if key == name:
            return key, {**language, **state}
    raise RequestRefused(f"State '{name}' does not exist in the definition.")


def _states(machine: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, state in machine.get("States", {}).items():
        yield name, state
        for inner in (state.get("ItemProcessor", {}), state.get("Iterator", {}), *state.get("Branches", ())):
            yield from _states(inner)


def _mock(parameter: Any, state: Mapping[str, Any]) -> _Mock | None:
    given = parameter("mock")
    kind, resource = str(state.get("Type")), str(state.get("Resource", ""))
    if given is None:
        if kind in MOCKED[1:] or resource.endswith((".sync", ".sync:2", ".waitForTaskToken")):
            raise RequestRefused(f"A state of type {kind} with this resource can only be tested with a mock.")
        if kind == "Task":
            raise RequestRefused("The local cloud tests a Task only with a mock.")
        return None
    if kind not in MOCKED:
        raise RequestRefused(f"A mock can only be specified for Task, Map, or Parallel states, and not for {kind}.")
    error = given.get("errorOutput")
    if (error is None) == (given.get("result") is None):
        raise RequestRefused("A mock must have either a result or an errorOutput.")
    if error is not None:
        retries = (parameter("stateConfiguration") or {}).get("retrierRetryCount", 0)
        return _Mock(error=error["error"], cause=error.get("cause", ""), retries=retries)
    result = _read(given["result"], "mock.result")
    if kind != "Task":
        if not isinstance(result, list):
            raise RequestRefused(f"The mocked result of a {kind} state must be an array.")
        return _Mock(result=result)
    violation = _result_violation(result, resource, mode=given.get("fieldValidationMode") or "STRICT")
    if violation is not None:
        raise RequestRefused(f"Mock result schema validation error: {violation}")
    return _Mock(result=result)


def _result_violation(result: Any, resource: str, *, mode: str) -> str | None:
    call = SDK_RESOURCE.match(resource)
    if mode == "NONE" or call is None or call[3]:
        # With a task token the result is the answer of the token's holder, which no API's schema describes.
        return None
    operation = operation_model(call[1], call[2])
    if operation is None:
        return f"the resource {resource} is not recognized."
    return schema_violation(result, operation.output_shape, required=mode == "STRICT")


def _context(parameter: Any) -> dict[str, Any]:
    text = parameter("context")
    if text is None:
        return {}
    if parameter("mock") is None:
        raise RequestRefused("A context may only be specified if a mock is specified in the same request.")
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
    """Parse the state as the only state of a machine; its transitions may lead to states that do not exist."""
    from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser, ASLParserException

    machine = {"StartAt": name, "States": {name: state}}
    try:
        program, _ = AmazonStateLanguageParser.parse(json.dumps(machine))
    except (ASLParserException, ValueError, RuntimeError) as error:
        raise RequestRefused(f"Invalid State Machine Definition: '{error}'", error="InvalidDefinition") from error
    return program.states.states[name]


def _install_mock(
    component: Any, mock: _Mock, *, env: Any, state: Mapping[str, Any], inspection: dict[str, Any]
) -> None:
    """Replace the work of the state with the mock; the state does everything else itself."""
    from moto.stepfunctions.parser.asl.component.state.exec.execute_state import ExecutionState

    def work(env: Any) -> None:
        if state["Type"] == "Task":
            inspection["afterArguments"] = _text(component._eval_parameters(env=env))
        if state["Type"] == "Map":
            items = _items(component, env)
            inspection["afterItemSelector"] = _text(items)
            if mock.error is None and len(mock.result) != len(items):
                raise RequestRefused(
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
                interval = retrier.interval_seconds.seconds * retrier.backoff_rate.rate**mock.retries
                output = component._construct_error_output_value(failure_event)
                seconds = int(min(interval, retrier.max_delay_seconds.max_delays_seconds))
                raise _Retriable(index=index, seconds=seconds, error=output["Error"], cause=output["Cause"])
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
    # A token task's own method would wait for the answer.
    component._evaluate_with_timeout = functools.partial(ExecutionState._evaluate_with_timeout, component)
    component._handle_retry = retry
    component._handle_catch = catch
    if str(state.get("Resource", "")).endswith(".waitForTaskToken"):
        env.states.context_object.context_object_data.setdefault("Task", {"Token": MOCKED_TOKEN})


def _items(component: Any, env: Any) -> list[Any]:
    """Return the items of a Map state, each as its ItemSelector makes it."""
    if component.items is None:
        raise RequestRefused("The local cloud tests only Map states in JSONata with Items.")
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
        error_name, cause = failure.extract_error_cause_pair() or (None, None)
        return {"status": "FAILED", "error": error_name or "States.Runtime", "cause": cause or ""}
    except RequestRefused:
        raise
    except Exception as error:  # moto's interpreter reports these as States.Runtime, too
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


def _read(text: str, name: str, *, error: str = "ValidationException") -> Any:
    try:
        return json.loads(text)
    except ValueError as reason:
        raise RequestRefused(f"'{name}' must be JSON: {reason}", error=error) from reason


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


CORRECTIONS = (teststate_runs_one_state,)
