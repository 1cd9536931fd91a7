"""A run as a state of another state machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsii
from aws_cdk import Aws, Stack, Token
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import jsonata
from cdk_horovod.permissions.executions import accept_executions_in, executions_of
from horovod_node import contract

_EXPRESSION: Final = re.compile(r"\{%.*%\}", re.DOTALL)
_PARENT: Final = "$states.context.Execution.Id"
_RULE: Final = "StepFunctionsGetEventsForStepFunctionsExecutionRule"
"""
EventBridge rule with which Step Functions hears of the end of an execution that it waits for. It creates the rule with
the parent's role (Step Functions Developer Guide, "IAM policies for calling Step Functions workflow executions").
"""


class RunTask(sfn.CustomState):
    """
    State that starts a run, waits for its end, and stops the run when it is aborted itself.

    `IHorovodTraining.run_task` makes one. It is written in JSONata, and works in state machines of either query
    language. The state machine gets the permissions that the state needs, and no others: start runs of this training,
    describe and stop them, and the EventBridge rule that Step Functions waits with.
    """

    def __init__(self, scope: Construct, id: str, *, state: Mapping[str, Any], runs: sfn.IStateMachine) -> None:
        super().__init__(scope, id, state_json=state)
        self._runs = runs
        self._graph: sfn.StateGraph | None = None
        accept_executions_in(Stack.of(scope), runs)

    # CDK calls this for each state of a definition, once or more often. Tasks of its own do the same; its task for
    # StartExecution would allow more: the executions of every state machine whose name begins like this one's.
    @jsii.member(jsii_name="bindToGraph")
    def bind_to_graph(self, graph: sfn.StateGraph) -> None:
        """Give the state machine of *graph* the permissions of this state."""
        super().bind_to_graph(graph)
        if self._graph is graph:
            return
        self._graph = graph
        rule = Stack.of(self).format_arn(service="events", resource="rule", resource_name=_RULE)
        for actions, resource in (
            (["states:StartExecution"], self._runs.state_machine_arn),
            (["states:DescribeExecution", "states:StopExecution"], f"{executions_of(self._runs)}:*"),
            (["events:PutTargets", "events:PutRule", "events:DescribeRule"], rule),
        ):
            graph.register_policy_statement(iam.PolicyStatement(actions=actions, resources=[resource]))


def run_task(
    scope: Construct,
    id: str,
    *,
    runs: sfn.IStateMachine,
    request: Mapping[str, Any] | str,
    name: str | None,
    associate_with_parent: bool,
    outputs: Any,
    assign: Mapping[str, Any] | None,
) -> RunTask:
    """Build the state; see `DeployedTraining.run_task`."""
    _refuse_other_environments(scope, runs)
    arguments: dict[str, Any] = {
        "StateMachineArn": runs.state_machine_arn,
        "Input": _input(request, associate_with_parent=associate_with_parent),
    }
    if name is not None:
        if _EXPRESSION.fullmatch(name) is None:
            raise ValueError(
                "'name' must be a JSONata expression, because Step Functions takes each name once in 90 days, got "
                f"{'a CDK token' if Token.is_unresolved(name) else repr(name)}; use "
                "\"{% 'nightly-' & $states.context.Execution.Name %}\""
            )
        arguments["Name"] = name
    state = {
        "Type": "Task",
        "QueryLanguage": "JSONata",
        "Resource": f"arn:{Aws.PARTITION}:states:::states:startExecution.sync:2",
        "Arguments": arguments,
        "Output": jsonata("$states.result.Output") if outputs is None else outputs,
        **({} if assign is None else {"Assign": assign}),
    }
    return RunTask(scope, id, state=state, runs=runs)


def refuse_tokens(request: Mapping[str, Any] | str) -> None:
    """Refuse a request whose fields are not known before they are checked and merged with the parent's id."""
    token = Token.is_unresolved(request)
    if token or (isinstance(request, str) and _EXPRESSION.fullmatch(request) is None):
        got = "a CDK token" if token else repr(request)
        raise ValueError(f"'request' must be a mapping or a JSONata expression, '{{% … %}}', got {got}")
    if not isinstance(request, str) and any(Token.is_unresolved(field) for field in request):
        raise ValueError("'request' must have fields that are known at synthesis, got a CDK token as a field")


def later_fields(request: Mapping[str, Any]) -> set[str]:
    """Name the fields of *request* whose values are known only at deployment or in the execution."""
    return {field for field, value in request.items() if any(_is_later(each) for each in _leaves(value))}


def _input(request: Mapping[str, Any] | str, *, associate_with_parent: bool) -> dict[str, Any] | str:
    if isinstance(request, str):
        expression = request.removeprefix("{%").removesuffix("%}").strip()
        parent = f"{{'{contract.STARTED_BY}': {_PARENT}}}"
        return jsonata(f"$merge([{expression}, {parent}])") if associate_with_parent else request
    return {**request, contract.STARTED_BY: jsonata(_PARENT)} if associate_with_parent else dict(request)


def _refuse_other_environments(scope: Construct, runs: sfn.IStateMachine) -> None:
    """Refuse a training in another account or Region than the state's."""
    ours = Stack.of(scope)
    for place, there, here in (
        ("account", runs.env.account, ours.account),
        ("Region", runs.env.region, ours.region),
    ):
        if not Token.is_unresolved(there) and not Token.is_unresolved(here) and there != here:
            raise ValueError(
                f"'scope' must be in the {place} of the training, {there}, got {here}: a state starts executions in "
                f"its own {place}"
            )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_later(value: Any) -> bool:
    return Token.is_unresolved(value) or (isinstance(value, str) and _EXPRESSION.fullmatch(value) is not None)
