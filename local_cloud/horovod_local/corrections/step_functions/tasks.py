"""AWS calls of a state machine: arguments, credentials, results and errors; also Catch, Fail and Choice."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import HTTPClientError
from botocore.model import ListShape, OperationModel, Shape, StructureShape

from horovod_client.aws import java_names
from horovod_local.corrections.registry import correction
from horovod_local.permissions.principals import PRINCIPALS
from horovod_local.shared.api_calls import state_user_agent

TERMINAL_ERRORS: Final = ("States.Runtime", "States.DataLimitExceeded")
"""Errors that States.ALL does not match (Developer Guide, "Handling errors in Step Functions workflows")."""


@correction(
    moto="passes a task's arguments to the SDK unchanged",
    aws="converts names and types to those of the API: a value in place of a string or blob is sent as JSON text",
)
def arguments_are_fitted_to_the_api() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (
        StateTaskService,
    )

    def normalise(self: Any, parameters: Any, boto_service_name: Any = None, service_action_name: Any = None) -> None:
        shape = _operation(self, boto_service_name, service_action_name).input_shape
        if isinstance(parameters, dict) and shape is not None:
            fitted = _fitted(java_names.in_the_api(parameters, shape), shape)
            parameters.clear()
            parameters.update(fitted)

    StateTaskService._normalise_parameters = normalise


@correction(
    moto="signs the calls of state machines with a constant access key",
    aws="signs them with credentials of the state machine's role",
)
def state_machines_have_a_key_of_their_own() -> None:
    import boto3
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (
        StateTaskService,
    )
    from moto.stepfunctions.parser.asl.utils import boto_client

    # Thread-local, because each iteration of a Map runs in its own thread.
    current = threading.local()
    evaluate_execution = StateTaskService._eval_execution

    def evaluate(self: Any, env: Any) -> None:
        current.state, current.role = self.name, env.aws_execution_details.role_arn
        evaluate_execution(self, env)

    def client(*, config: Config, **arguments: Any) -> Any:
        # The user agent names the state, for faults of one state.
        named = config.merge(Config(user_agent_extra=state_user_agent(current.state)))
        key = PRINCIPALS.workflow_key(current.role, region=arguments["region_name"])
        return boto3.client(**{**arguments, "aws_access_key_id": key}, config=named)

    StateTaskService._eval_execution = evaluate
    # moto's module makes its clients with `boto3.client` only.
    boto_client.boto3 = SimpleNamespace(client=client)


@correction(
    moto="keeps datetimes, bytes and streams in a task's result, and DescribeExecution then answers 500",
    aws="returns times as ISO 8601 text and blobs as text",
)
def results_are_json() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (
        StateTaskService,
    )

    def normalise(_self: Any, response: Any, *_operation: Any, **_names: Any) -> None:
        if isinstance(response, dict):
            plain = _json(response)
            response.clear()
            response.update(plain)

    StateTaskService._normalise_response = normalise


@correction(
    moto="spells the members of a result by rules of its own, and leaves those inside maps unchanged",
    aws="spells them as the AWS SDK for Java does, in PascalCase, such as VpcZoneIdentifier for VPCZoneIdentifier",
)
def results_have_the_names_of_the_sdk_for_java() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (
        StateTaskService,
    )

    normalise_response = StateTaskService._normalise_response

    def normalise(self: Any, response: Any, boto_service_name: Any = None, service_action_name: Any = None) -> None:
        normalise_response(self, response, boto_service_name, service_action_name)
        if isinstance(response, dict):
            shape = _operation(self, boto_service_name, service_action_name).output_shape
            named = java_names.in_step_functions(response, shape)
            response.clear()
            response.update(named)

    StateTaskService._normalise_response = normalise


@correction(
    moto="names SDK errors after the resource and the model, like autoscaling.ScalingActivityInProgressFaultException",
    aws="names them after service and class of the SDK for Java, like AutoScaling.ScalingActivityInProgressException",
)
def errors_carry_the_service_name() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
        StateTaskServiceAwsSdk,
    )

    def exception_name(service: str, error: Exception) -> str:
        kind = type(error).__name__
        # An error that the API's model does not have is of the service's general class, such as Ec2Exception.
        return f"{service}.{java_names.exception_name(service if kind == 'ClientError' else kind)}"

    StateTaskServiceAwsSdk._normalise_service_error_name = staticmethod(_error_prefix)
    StateTaskServiceAwsSdk._normalise_exception_name = staticmethod(exception_name)


@correction(
    moto="fails a task whose service does not answer with States.Runtime, which cannot be caught",
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
    moto="accepts SDK calls and arguments that do not exist, and calls without required arguments",
    aws="refuses the state machine; if an expression makes the arguments, the task fails with States.Runtime",
)
def unknown_arguments_are_refused() -> None:
    from moto.stepfunctions.parser.api import InvalidDefinition
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
        StateTaskServiceAwsSdk,
    )
    from moto.stepfunctions.parser.models import StepFunctionsParserBackend

    validate = StepFunctionsParserBackend._validate_definition

    def validate_calls(definition: str) -> None:
        validate(definition=definition)
        refused = next(java_names.refusals(json.loads(definition)), None)
        if refused is not None:
            raise InvalidDefinition(f"Invalid State Machine Definition: 'SCHEMA_VALIDATION_FAILED: {refused}'")

    StepFunctionsParserBackend._validate_definition = staticmethod(validate_calls)

    normalise_parameters = StateTaskServiceAwsSdk._normalise_parameters

    def normalise(self: Any, parameters: Any, boto_service_name: Any = None, service_action_name: Any = None) -> None:
        shape = _operation(self, boto_service_name, service_action_name).input_shape
        refused = next(java_names.problems(parameters, shape, f"/States/{self.name}/Arguments"), None)
        if refused is not None:
            raise ValueError(refused)
        normalise_parameters(self, parameters, boto_service_name, service_action_name)

    StateTaskServiceAwsSdk._normalise_parameters = normalise


@correction(
    moto="lets States.ALL catch and retry every error",
    aws="documents that it matches neither States.Runtime nor States.DataLimitExceeded, which end the execution",
)
def terminal_errors_are_not_caught() -> None:
    """
    Follow the Developer Guide, "Handling errors in Step Functions workflows": both errors are terminal.

    The sources disagree: in recordings of executions of 2024, for `lambda:invoke`, a Catch of States.ALL did catch
    States.DataLimitExceeded. A definition must rely on neither behaviour; this strict one reveals whether it relies on
    the Catch.
    """
    from moto.stepfunctions.parser.asl.component.common.error_name.error_equals_decl import ErrorEqualsDecl

    evaluate_body = ErrorEqualsDecl._eval_body

    def evaluate(self: Any, env: Any) -> None:
        raised = env.stack[-1]
        evaluate_body(self, env)
        if raised.error_name in TERMINAL_ERRORS and raised not in self.error_names:
            env.stack[-1] = False

    ErrorEqualsDecl._eval_body = evaluate


@correction(
    moto="fails a Fail state whose Error is a reserved name, such as States.Timeout, with States.Runtime",
    aws="fails it with that name",
)
def fail_states_may_repeat_caught_errors() -> None:
    from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
    from moto.stepfunctions.parser.asl.component.common.error_name.error_name import ErrorName

    def initialise(self: Any, error_name: str | None) -> None:
        ErrorName.__init__(self, error_name=error_name or "")

    CustomErrorName.__init__ = initialise


@correction(
    moto="fails a Choice without a match and without a Default with States.Runtime",
    aws="fails it with States.NoChoiceMatched",
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
    found = java_names.operation_model(task._get_boto_service_name(service), task._get_boto_service_action(action))
    if found is None:
        raise ValueError(f"The resource provided {task.resource.resource_arn} is not recognized.")
    return found


def _error_prefix(service: str) -> str:
    model = java_names.service_model(service)
    return java_names.service_name(model.service_id) if model else service


def _fitted(value: Any, shape: Shape) -> Any:
    """Convert values in place of strings and blobs to their JSON text."""
    match shape:
        case StructureShape() if isinstance(value, Mapping):
            return {
                key: _fitted(item, shape.members[key]) if key in shape.members else item for key, item in value.items()
            }
        case ListShape() if isinstance(value, list):
            return [_fitted(item, shape.member) for item in value]
    if shape.type_name == "blob":
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    if shape.type_name == "string" and not isinstance(value, str):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return value


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
    """Format *moment* as Step Functions does: ISO 8601 in UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


CORRECTIONS = (
    arguments_are_fitted_to_the_api,
    state_machines_have_a_key_of_their_own,
    results_are_json,
    results_have_the_names_of_the_sdk_for_java,
    errors_carry_the_service_name,
    lost_connections_are_sdk_errors,
    unknown_arguments_are_refused,
    terminal_errors_are_not_caught,
    fail_states_may_repeat_caught_errors,
    choices_without_a_match_say_so,
)
