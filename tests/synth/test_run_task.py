"""`run_task`: a run as a state of another state machine, with no more permissions than it needs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_cdk import App, Aws, CfnParameter, Environment, Fn, Stack
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn

from cdk_horovod import HorovodTraining
from cdk_horovod.acknowledgements import acknowledge
from cdk_horovod.asl.resolved import resolved_definitions
from horovod_node import contract
from support.construct_stacks import Stacks, flat, synthesise_validated, training_in

pytestmark = pytest.mark.synth

REQUEST = {"source": "s3://bucket/source.tar.gz", "entry_point": "train.py", "gpus": 2}
STARTED_BY = {contract.STARTED_BY: "{% $states.context.Execution.Id %}"}
CONNECTION = json.dumps(
    {
        contract.CONNECTION_STATE_MACHINE: "arn:aws:states:eu-west-1:111122223333:stateMachine:Runs",
        contract.CONNECTION_DATA_BUCKET: "data",
        contract.CONNECTION_MODEL_BUCKET: "models",
        contract.CONNECTION_LEDGER_TABLE: "ledger",
        contract.CONNECTION_LOG_GROUP: "nodes",
        contract.CONNECTION_QUEUE: "TeamTraining",
        contract.CONNECTION_FLEETS: [],
    }
)


def add_parent(stack: Stack, id: str, *states: sfn.IChainable, **options: Any) -> None:
    """Add a state machine with *states* in a row."""
    chain = sfn.Chain.start(states[0])
    for state in states[1:]:
        chain = chain.next(state)
    machine = sfn.StateMachine(
        stack,
        id,
        definition_body=sfn.DefinitionBody.from_chainable(chain),
        tracing_enabled=True,
        logs=sfn.LogOptions(destination=logs.LogGroup(stack, f"{id}Logs"), level=sfn.LogLevel.ALL),
        **options,
    )
    # Of X-Ray and log delivery, which are not what is tested.
    acknowledge(machine.role, rule="IAM5[Resource::*]", reason="They support no resource-level permissions.")


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    """Parents in both query languages: in the stack of the training, in another one, and of an imported training."""

    def build(app: App) -> None:
        own, far = Stack(app, "Own"), Stack(app, "Far")
        training = training_in(own)
        add_parent(own, "JsonPath", training.run_task(own, "Train", request=REQUEST))
        add_parent(
            own,
            "Jsonata",
            training.run_task(
                own,
                "Train as asked",
                request="{% $states.input.request %}",
                name="{% 'nightly-' & $states.context.Execution.Name %}",
                outputs="{% $states.result.Output.model %}",
                assign={"run": "{% $states.result.Name %}"},
            ),
            training.run_task(
                own, "Train alone", request={**REQUEST, "gpus": "{% $gpus %}"}, associate_with_parent=False
            ),
            query_language=sfn.QueryLanguage.JSONATA,
        )
        add_parent(far, "Parent", training.run_task(far, "Train", request=REQUEST))
        imported = HorovodTraining.from_stack_output(Stack(app, "Other"), "Training", output=CONNECTION)
        add_parent(Stack.of(imported.state_machine), "Parent", imported.run_task(imported, "Train", request=REQUEST))

    return synthesise_validated(tmp_path_factory.mktemp("nested"), build)


def states(stacks: Stacks, stack: str, machine: str) -> dict[str, Any]:
    """Read the states of the state machine whose logical id begins with *machine*."""
    definitions = resolved_definitions(stacks.templates[stack].to_json())
    (found,) = (definition["States"] for id, definition in definitions.items() if id.startswith(machine))
    return dict(found)


def test_state_waits_for_the_run_below_its_parent(stacks: Stacks) -> None:
    """In a machine of JSONPath, too, the state is JSONata; the run gets the parent's id and gives its output."""
    # WHEN
    (state,) = states(stacks, "Own", "JsonPath").values()

    # THEN
    machine = state["Arguments"].pop("StateMachineArn")
    assert machine.startswith("${TrainingStateMachine")
    assert state == {
        "Type": "Task",
        "QueryLanguage": "JSONata",
        "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Arguments": {"Input": {**REQUEST, **STARTED_BY}},
        "Output": "{% $states.result.Output %}",
        "End": True,
    }


def test_request_may_be_an_expression(stacks: Stacks) -> None:
    """A request from the parent's input gets the parent's id, and name, output and variables are as they are given."""
    # WHEN
    asked, alone = states(stacks, "Own", "Jsonata").values()

    # THEN
    merged = f"{{% $merge([$states.input.request, {{'{contract.STARTED_BY}': $states.context.Execution.Id}}]) %}}"
    assert asked["Arguments"]["Input"] == merged
    assert asked["Arguments"]["Name"] == "{% 'nightly-' & $states.context.Execution.Name %}"
    assert (asked["Output"], asked["Assign"]) == (
        "{% $states.result.Output.model %}",
        {"run": "{% $states.result.Name %}"},
    )
    assert alone["Arguments"]["Input"] == {**REQUEST, "gpus": "{% $gpus %}"}


@pytest.mark.parametrize(
    ("stack", "role", "machine", "runs"),
    [
        ("Own", "JsonPathRole", "TrainingStateMachine", "execution:TrainingStateMachine"),
        ("Own", "JsonataRole", "TrainingStateMachine", "execution:TrainingStateMachine"),
        ("Far", "ParentRole", "Own:ExportsOutputRef", "execution:Own:ExportsOutputFnGetAtt"),
        (
            "Other",
            "ParentRole",
            "arn:aws:states:eu-west-1:111122223333:stateMachine:Runs",
            "arn:aws:states:eu-west-1:111122223333:execution:Runs",
        ),
    ],
)
def test_parent_may_do_what_the_state_needs(stacks: Stacks, stack: str, role: str, machine: str, runs: str) -> None:
    """The parent's role may start this training's runs, describe and stop them, and set the rule it waits with."""
    # WHEN
    allowed = {
        tuple(statement["Action"]) if isinstance(statement["Action"], list) else (statement["Action"],): flat(
            statement["Resource"]
        )
        for statement in stacks.statements(stack, role=role)
        if statement["Resource"] != "*"
    }

    # THEN
    started = allowed.pop(("states:StartExecution",))
    waited = allowed.pop(("states:DescribeExecution", "states:StopExecution"))
    rule = allowed.pop(("events:PutTargets", "events:PutRule", "events:DescribeRule"))
    assert allowed == {}
    assert started.startswith(machine)
    assert runs in waited
    # AND of no state machine whose name only begins like this one's
    assert waited.endswith(":*")
    assert rule.endswith(":rule/StepFunctionsGetEventsForStepFunctionsExecutionRule")


@pytest.fixture(scope="module")
def training() -> HorovodTraining:
    """A training of at most 8 GPUs in a known environment."""
    return training_in(Stack(App(), "Stack", env=Environment(account="111122223333", region="eu-west-1")))


NOT_A_REQUEST = "'request' must be a mapping or a JSONata expression, '{% … %}', got "


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"request": {**REQUEST, "gpus": 12}},
            "'request' would be refused: 'gpus' must be a multiple of 1 up to 8, got 12",
        ),
        (
            {"request": {"gpus": "{% $gpus %}", "entry_point": "train.py"}},
            "'request' would be refused: 'source' is missing (S3 address of the script's folder as .tar.gz)",
        ),
        ({"request": "$.request"}, f"{NOT_A_REQUEST}'$.request'"),
        ({"request": Aws.STACK_NAME}, f"{NOT_A_REQUEST}a CDK token"),
        ({"request": Fn.get_att("Table", "Arn")}, f"{NOT_A_REQUEST}a CDK token"),
        (
            {"request": {**REQUEST, Aws.STACK_NAME: 1}},
            "'request' must have fields that are known at synthesis, got a CDK token as a field",
        ),
        (
            {"request": REQUEST, "name": "nightly"},
            "'name' must be a JSONata expression, because Step Functions takes each name once in 90 days, got "
            "'nightly'; use \"{% 'nightly-' & $states.context.Execution.Name %}\"",
        ),
        (
            {"request": REQUEST, "name": Aws.STACK_NAME},
            "'name' must be a JSONata expression, because Step Functions takes each name once in 90 days, got a CDK "
            "token; use \"{% 'nightly-' & $states.context.Execution.Name %}\"",
        ),
    ],
)
def test_fails_when_the_run_could_not_start(training: HorovodTraining, arguments: Any, sentence: str) -> None:
    """What every run would be refused for is refused at synthesis, by name."""
    with pytest.raises(ValueError, match=r"must|would") as refused:
        training.run_task(training, "Train", **arguments)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(("field", "place"), [("account", "account"), ("region", "Region")])
def test_fails_when_the_training_is_elsewhere(training: HorovodTraining, field: str, place: str) -> None:
    """A parent in another account or Region could not start a run."""
    # GIVEN
    here = {"account": "111122223333", "region": "eu-west-1"}
    there = {"account": "444455556666", "region": "us-east-1"}
    stack = Stack(App(), "Far", env=Environment(**{**here, field: there[field]}))

    # WHEN
    with pytest.raises(ValueError, match="scope") as refused:
        training.run_task(stack, "Train", request=REQUEST)

    # THEN
    assert str(refused.value) == (
        f"'scope' must be in the {place} of the training, {here[field]}, got {there[field]}: a state starts executions "
        f"in its own {place}"
    )


def test_values_may_be_known_at_deployment(training: HorovodTraining) -> None:
    """A value that is a CDK token is left to the workflow's own check; the others are checked."""
    # GIVEN
    gpus = CfnParameter(Stack.of(training), "Gpus", type="Number").value_as_number
    source = f"s3://scripts-{Aws.ACCOUNT_ID}/source.tar.gz"

    # WHEN
    state = training.run_task(training, "Nested", request={**REQUEST, "gpus": gpus, "source": source})

    # THEN
    assert Stack.of(training).resolve(state.to_state_json())["Arguments"]["Input"]["gpus"] == {"Ref": "Gpus"}
    # AND
    with pytest.raises(ValueError, match=r"'entry_point' must be a relative path of a .py file, got train$"):
        training.run_task(training, "Other", request={**REQUEST, "gpus": gpus, "entry_point": "train"})
