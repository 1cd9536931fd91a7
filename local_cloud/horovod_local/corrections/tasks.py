"""Calls that a state machine makes to AWS: names and shapes on the way out, errors and values on the way back."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import botocore.session
from botocore import xform_name
from botocore.exceptions import HTTPClientError
from botocore.model import OperationModel

from horovod_local.corrections.registry import correction

_ERROR_PREFIXES: Final = {"dynamodb": "DynamoDb", "sfn": "Sfn", "states": "Sfn", "stepfunctions": "Sfn"}
"""Where Step Functions' prefix of an SDK error does not follow from the service's id (Developer Guide, "Learning to
use AWS service SDK integrations")."""

TERMINAL_ERRORS: Final = ("States.Runtime", "States.DataLimitExceeded")
"""What States.ALL does not stand for (Developer Guide, "Handling errors in Step Functions workflows")."""


@correction(
    moto="passes a task's arguments to the SDK as they are written, and hands back whatever the SDK returned",
    aws="fits names and types to the API: what is given where a string or a body is due is sent as its JSON",
)
def arguments_are_fitted_to_the_api() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (
        StateTaskService,
    )

    # moto has the walk over the shapes and stubs out its callers.
    def normalise(self: Any, parameters: Any, boto_service_name: Any = None, service_action_name: Any = None) -> None:
        shape = _operation(self, boto_service_name, service_action_name).input_shape
        if parameters and shape is not None:
            self._to_boto_request(parameters, shape)

    StateTaskService._normalise_parameters = normalise


@correction(
    moto="keeps datetimes, bytes and streams in a task's result, and DescribeExecution then answers 500",
    aws="gives times as ISO 8601 texts and bodies as text",
)
def results_are_json() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (
        StateTaskService,
    )

    def normalise(self: Any, response: Any, boto_service_name: Any = None, service_action_name: Any = None) -> None:
        if not isinstance(response, dict):
            return
        shape = _operation(self, boto_service_name, service_action_name).output_shape
        plain = _json(response)
        response.clear()
        response.update(plain)
        if shape is not None:
            self._from_boto_response(response, shape)

    StateTaskService._normalise_response = normalise


@correction(
    moto="names SDK errors after the resource, like autoscaling.autoscalingException",
    aws="names them after the service, like AutoScaling.AutoScalingException or S3.NoSuchKeyException",
)
def errors_carry_the_service_name() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
        StateTaskServiceAwsSdk,
    )

    StateTaskServiceAwsSdk._normalise_service_error_name = staticmethod(_error_prefix)


@correction(
    moto="ends a task whose service gives no answer with States.Runtime, which nothing catches",
    aws="fails it with the service's SdkClientException, such as DynamoDb.SdkClientException",
)
def lost_connections_are_sdk_errors() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
        StateTaskServiceAwsSdk,
    )

    from_error = StateTaskServiceAwsSdk._from_error

    def translate(self: Any, env: Any, ex: Exception) -> Any:
        if isinstance(ex, HTTPClientError):
            error = f"{_error_prefix(self.resource.api_name)}.SdkClientException"
            return self._get_task_failure_event(env=env, error=error, cause=f"Unable to execute HTTP request: {ex}")
        return from_error(self, env, ex)

    StateTaskServiceAwsSdk._from_error = translate


@correction(
    moto="leaves out an argument that the API does not have",
    aws="refuses the state machine; here the task fails with States.Runtime, which nothing catches",
)
def unknown_arguments_are_refused() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
        StateTaskServiceAwsSdk,
    )

    normalise_parameters = StateTaskServiceAwsSdk._normalise_parameters

    def normalise(self: Any, parameters: Any, boto_service_name: Any = None, service_action_name: Any = None) -> None:
        normalise_parameters(self, parameters, boto_service_name, service_action_name)
        operation = _operation(self, boto_service_name, service_action_name)
        known = operation.input_shape.members if operation.input_shape else {}
        for name in parameters:
            if name not in known:
                raise ValueError(f"The field '{name}' is not an argument of {operation.name}.")

    StateTaskServiceAwsSdk._normalise_parameters = normalise


@correction(
    moto="lets States.ALL catch and retry every error",
    aws="does not let it catch States.Runtime and States.DataLimitExceeded, which end the execution",
)
def terminal_errors_are_not_caught() -> None:
    from moto.stepfunctions.parser.asl.component.common.error_name.error_equals_decl import ErrorEqualsDecl

    evaluate_body = ErrorEqualsDecl._eval_body

    def evaluate(self: Any, env: Any) -> None:
        raised = env.stack[-1]
        evaluate_body(self, env)
        if raised.error_name in TERMINAL_ERRORS and raised not in self.error_names:
            env.stack[-1] = False

    ErrorEqualsDecl._eval_body = evaluate


@correction(
    moto="ends a Fail state whose Error is a name it caught, such as States.Timeout, with States.Runtime",
    aws="ends it with that name",
)
def fail_states_may_repeat_caught_errors() -> None:
    from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
    from moto.stepfunctions.parser.asl.component.common.error_name.error_name import ErrorName

    def initialise(self: Any, error_name: str | None) -> None:
        ErrorName.__init__(self, error_name=error_name or "")

    CustomErrorName.__init__ = initialise


@correction(
    moto="ends a Choice without a match and without a Default with States.Runtime",
    aws="ends it with States.NoChoiceMatched",
)
def choices_without_a_match_say_so() -> None:
    from moto.stepfunctions.parser.api import ExecutionFailedEventDetails, HistoryEventType
    from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
        FailureEvent,
        FailureEventException,
    )
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
    from moto.stepfunctions.parser.asl.component.state.choice.state_choice import StateChoice
    from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails

    evaluate_state = StateChoice._eval_state

    def evaluate(self: Any, env: Any) -> None:
        try:
            evaluate_state(self, env)
        except RuntimeError as error:
            if "No branching option" not in str(error):
                raise
            name = StatesErrorName(typ=StatesErrorNameType.StatesNoChoiceMatched)
            details = ExecutionFailedEventDetails(
                error=name.error_name,
                cause=f"No choice of the state '{self.name}' matched and it has no Default.",
            )
            raise FailureEventException(
                FailureEvent(
                    env=env,
                    error_name=name,
                    event_type=HistoryEventType.ExecutionFailed,
                    event_details=EventDetails(executionFailedEventDetails=details),
                )
            ) from error

    StateChoice._eval_state = evaluate


def _operation(task: Any, service: str | None, action: str | None) -> OperationModel:
    return _operation_model(task._get_boto_service_name(service), task._get_boto_service_action(action))


@functools.cache
def _operation_model(service: str, method: str) -> OperationModel:
    """Find the operation that boto3 offers as *method*, such as put_item, in botocore's own description."""
    model = botocore.session.get_session().get_service_model(service)
    names = {xform_name(name): name for name in model.operation_names}
    return model.operation_model(names[method])


@functools.cache
def _error_prefix(service: str) -> str:
    known = _ERROR_PREFIXES.get(service.lower())
    if known:
        return known
    # "Auto Scaling" becomes AutoScaling, "EC2" becomes Ec2, "S3" stays S3: capitalised words, run together.
    words = botocore.session.get_session().get_service_model(service).service_id.split(" ")
    return "".join(word.capitalize() if word.isupper() else word[0].upper() + word[1:] for word in words)


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if hasattr(value, "read"):
        return value.read().decode("utf-8", "replace")
    return value


def iso(moment: datetime) -> str:
    """Write *moment* as Step Functions writes times: ISO 8601 in UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


CORRECTIONS = (
    arguments_are_fitted_to_the_api,
    results_are_json,
    errors_carry_the_service_name,
    lost_connections_are_sdk_errors,
    unknown_arguments_are_refused,
    terminal_errors_are_not_caught,
    fail_states_may_repeat_caught_errors,
    choices_without_a_match_say_so,
)
