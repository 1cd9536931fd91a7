"""Invariants of the run's state machine, whatever its states are called."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape

from cdk_horovod.asl.resolved import by_layer
from cdk_horovod.workflow.emptying import NOT_BEGUN
from horovod_local.corrections.step_functions.jsonata import evaluate
from horovod_node import contract
from support import asl
from support.asl import bare, by_reference
from support.synthesis import REPOSITORY

pytestmark = [pytest.mark.synth, pytest.mark.every_engine]

LEASE_LOST = "DynamoDb.ConditionalCheckFailedException"
START, CONFIRM = "Start nodes", "Confirm that nothing runs"

SDK_INTEGRATION = r"arn:aws:states:::aws-sdk:(\w+):(\w+)(\.waitForTaskToken)?"

SERVICE_ERRORS = {"DynamoDb": "dynamodb", "SageMaker": "sagemaker", "Sfn": "sfn"}
"""Prefix of an SDK integration's errors (Step Functions guide, "Calling other AWS services"), to that of its ARN."""

BOTOCORE_NAMES = {"sfn": "stepfunctions"}

STATES_ERRORS = {
    "States.ALL",
    "States.BranchFailed",
    "States.DataLimitExceeded",
    "States.ExceedToleratedFailureThreshold",
    "States.HeartbeatTimeout",
    "States.Http.Socket",
    "States.ItemReaderFailed",
    "States.NoChoiceMatched",
    "States.Permissions",
    "States.QueryEvaluationError",
    "States.ResultWriterFailed",
    "States.Runtime",
    "States.TaskFailed",
    "States.Timeout",
}
"""Reserved error names (Step Functions guide, "Handling errors in workflows")."""


def states_of(definition: Mapping[str, Any]) -> Mapping[str, asl.State]:
    states: Mapping[str, asl.State] = definition["States"]
    return states


def sdk_calls(definition: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """List (state, service, action, arguments) of every SDK integration."""
    for name, state in asl.all_states(definition):
        if state["Type"] == "Task":
            match = re.fullmatch(SDK_INTEGRATION, state["Resource"])
            assert match, f"{name} calls {state['Resource']}, which is no SDK integration"
            yield name, match[1], match[2], state["Arguments"]


def test_every_path_after_the_start_confirms_that_nothing_runs(definition: Mapping[str, Any]) -> None:
    """Every path from the first start of nodes to an end confirms that nothing runs, unless the fleet is another's."""
    # GIVEN the graph of a run that keeps its lease, with the confirmation taken out
    states = {
        name: {**state, "Catch": [catch for catch in state.get("Catch", ()) if catch["ErrorEquals"] != [LEASE_LOST]]}
        for name, state in states_of(definition).items()
    }
    # WHEN walking on from the start of the nodes
    found = asl.reachable(states, start=START, avoiding=frozenset({CONFIRM}))
    # THEN no end is found, and the confirmation can be reached from everywhere
    assert [name for name in found if states[name]["Type"] in asl.TERMINAL] == []
    assert [name for name in found if CONFIRM not in asl.reachable(states, start=name)] == []


@pytest.mark.every_group
def test_every_scale_down_follows_a_renewed_lease(any_definition: Mapping[str, Any]) -> None:
    """A fleet is set to 0 only after its lease was taken or renewed under a condition."""
    for states in (any_definition["States"], *(state["ItemProcessor"]["States"] for state in maps(any_definition))):
        scaling = [name for name, state in states.items() if state.get("Arguments", {}).get("DesiredCapacity") == 0]
        for name in scaling:
            # WHEN walking to it from every state that does not hold the lease for sure
            fenced = {"Hold the fleet", "Take the lease"}
            found = asl.reachable(states, start=start_of(any_definition, states), avoiding=frozenset(fenced))
            # THEN there is no way
            assert name not in found
            for fence in fenced & set(states):
                assert "ConditionExpression" in states[fence]["Arguments"]
    assert scaled(any_definition) == ["Terminate"]


def maps(definition: Mapping[str, Any]) -> list[asl.State]:
    """List the maps of *definition*."""
    return [state for state in states_of(definition).values() if "ItemProcessor" in state]


def start_of(definition: Mapping[str, Any], states: Mapping[str, asl.State]) -> str:
    """Name the first of *states*, which are those of *definition* or of one of its maps."""
    processors = [definition, *(state["ItemProcessor"] for state in maps(definition))]
    return next(str(each["StartAt"]) for each in processors if each["States"] is states)


def scaled(definition: Mapping[str, Any]) -> list[str]:
    """List the states that set a capacity of 0."""
    return [
        name for name, state in asl.all_states(definition) if state.get("Arguments", {}).get("DesiredCapacity") == 0
    ]


def test_no_error_after_the_start_escapes(definition: Mapping[str, Any]) -> None:
    """Every task that can run while nodes run catches all errors, so that the execution cannot end there."""
    states = states_of(definition)
    for name in asl.reachable(states, start=START):
        if states[name]["Type"] in ("Task", "Map", "Parallel"):
            caught = [error for catch in states[name].get("Catch", ()) for error in catch["ErrorEquals"]]
            assert caught[-1:] == ["States.ALL"], name


def test_states_that_cannot_catch_only_read_what_is_assigned(definition: Mapping[str, Any]) -> None:
    """Choice, Pass and Wait, which have no Catch, read variables and the context only, and compute little."""
    states = states_of(definition)
    for name in asl.reachable(states, start=START):
        if states[name]["Type"] in ("Choice", "Pass", "Wait"):
            for expression in asl.expressions({**states[name]}):
                read = r"(\$not\()?\$\w+(\.\w+)?\)?|\$exists\(\$\w+\.\w+\)|\$count\(\$\w+\)"
                one = rf"({read})( [=>+] (\d+|'\w*'))?"
                assert re.fullmatch(rf" {one}( or {one})* ", expression), (name, expression)


def test_the_original_error_ends_the_run(definition: Mapping[str, Any]) -> None:
    """The one Fail state takes error and cause from the outcome, which clean-up steps never overwrite."""
    # GIVEN the states from the termination on
    states = states_of(definition)
    failing = [state for state in states.values() if state["Type"] == "Fail"]
    # THEN there is one failing end, and no clean-up step's Catch touches the outcome
    assert [(state["Error"], state["Cause"]) for state in failing] == [("{% $outcome.error %}", "{% $outcome.cause %}")]
    for name in asl.reachable(states, start="Terminate", avoiding=frozenset({"Hold the fleet to start"})):
        for catch in states[name].get("Catch", ()):
            # Who lost the fleet before anything went wrong says so; it keeps every other outcome.
            if catch["ErrorEquals"] != [LEASE_LOST]:
                assert "outcome" not in catch.get("Assign", {}), name


def test_token_tasks_hand_over_their_token_and_bound_their_wait(definition: Mapping[str, Any]) -> None:
    """A token task has a heartbeat; without one it would wait a year for a node that died."""
    tasks = {
        name: state for name, state in states_of(definition).items() if str(state.get("Resource")).endswith("Token")
    }
    assert list(tasks) == ["Wait for the ring", "Train", "Save the model"]
    for name, state in tasks.items():
        tokens = [part for part in asl.expressions(state["Arguments"]) if "$states.context.Task.Token" in part]
        assert len(tokens) == 1, name
        timeout, heartbeat = state["TimeoutSeconds"], state["HeartbeatSeconds"]
        if name == "Wait for the ring":
            (fleet,) = states_of(definition)["Check the request"]["Assign"]["fleets"]
            now = int(time.time())
            # The attempt has just begun, is in its middle, and is over.
            searches = [{"attempt": fleet["plan"][0], "since": now - ago} for ago in (0, 600, 10_000)]
            variables = [{"search": search} for search in searches]
            timeouts = asl.by_reference(variables, asl.bare(timeout))
            heartbeats = asl.by_reference(variables, asl.bare(heartbeat))
            assert all(0 < beat < limit for beat, limit in zip(heartbeats, timeouts, strict=True))
            assert timeouts[0] <= fleet["plan"][0]["seconds"]
            assert timeouts == sorted(timeouts, reverse=True)
            assert (timeouts[2], heartbeats[2]) == (2, 1)
            continue
        if isinstance(timeout, str):
            lowest = re.fullmatch(
                r"\{% \$max\(\[\$min\(\[\(\$request\.max_runtime_seconds - \$spent\), .+\]\), (\d+)\]\) %\}", timeout
            )
            assert lowest, timeout
            timeout = int(lowest[1])
        assert heartbeat < timeout, name


def test_token_tasks_are_asked_again_after_trouble_with_the_ledger_alone(definition: Mapping[str, Any]) -> None:
    """A token task is retried after a 5xx of the ledger, and never after the leader's answer or silence."""
    for name, state in states_of(definition).items():
        if str(state.get("Resource")).endswith("Token"):
            (retry,) = state["Retry"]
            assert {error.split(".")[0] for error in retry["ErrorEquals"]} == {"DynamoDb"}, name
            assert retry["MaxAttempts"] == 5
            caught = [error for catch in state["Catch"] for error in catch["ErrorEquals"]]
            assert not set(retry["ErrorEquals"]) & set(caught)
            # The transaction is refused by none of its writes, so a cancelled one may go well.
            items = state["Arguments"]["TransactItems"]
            assert not any("ConditionExpression" in write for item in items for write in item.values())


def test_state_machines_are_small(template: Mapping[str, Any], engine: str) -> None:
    """The number of states of each machine, maps included, is known, so that none grows unnoticed."""
    counts = {layer: len(list(asl.all_states(definition))) for layer, definition in by_layer(template).items()}
    assert counts["run"] <= {"ec2": 57, "ecs": 68, "sagemaker": 68}[engine], counts


def test_what_scales_a_fleet_is_fenced_against_a_redrive(any_definition: Mapping[str, Any]) -> None:
    """A redriven execution scales nothing before it has made sure of its lease again."""
    fence = "$held = ($exists($states.context.Execution.RedriveCount) ? $states.context.Execution.RedriveCount : 0) ?"
    changing = ("updateAutoScalingGroup", "setDesiredCapacity", "suspendProcesses", "createOrUpdateTags")
    changing += ("updateService", "deregisterContainerInstance", "createTrainingJob", "stopTrainingJob")
    for name, state in asl.all_states(any_definition):
        if str(state.get("Resource")).split(":")[-1] in changing:
            assert [part for part in asl.expressions(state["Arguments"]) if fence in part], name


@pytest.mark.every_group
def test_capacity_alone_is_changed_by_the_call_for_capacity(template: Mapping[str, Any]) -> None:
    """Only the run's two states that write a policy need the permission to launch; no other machine has it."""
    # WHEN
    updating = {
        layer: sorted(name for name, _, action, _ in sdk_calls(definition) if action == "updateAutoScalingGroup")
        for layer, definition in by_layer(template).items()
    }
    # THEN
    assert updating == {"run": ["Restore the group", "Start nodes"], "clean-up": [], "reaper": []}
    # AND only their role may launch
    launching = [
        role["Ref"]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::IAM::Policy"
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]
        if statement["Action"] == "ec2:RunInstances"
        for role in resource["Properties"]["Roles"]
    ]
    assert len(launching) == 2
    assert all(role.startswith("TrainingStateMachineRole") for role in launching)
    assert "etInstanceProtection" not in json.dumps(template)


def looked(expression: str, *, running: int, wanted: int, launching: int, **emptying: int) -> tuple[str, int, int]:
    """Evaluate `$emptying` after a look: what follows, looks in a row that saw nothing, and the next pause."""
    instances = [{"LifecycleState": "Terminating", "ProtectedFromScaleIn": False}] * running
    variables = {
        "emptying": {**NOT_BEGUN, "held_at": int(time.time()), **emptying},
        "launching": launching,
        "states": {"result": {"AutoScalingGroups": [{"Instances": instances, "DesiredCapacity": wanted}]}},
    }
    (found,) = by_reference([variables], expression)
    assert evaluate(expression, variables) == found
    return found["step"], found["zeros"], found["pause"]


@pytest.mark.every_group
def test_fleet_is_empty_after_two_looks_that_see_nothing(definition: Mapping[str, Any]) -> None:
    """A fleet is empty after two looks without instance, capacity or launch, because one look may err."""
    # GIVEN
    states = states_of(definition)
    judged = bare(states[CONFIRM]["Assign"]["emptying"])
    # THEN
    assert looked(judged, running=0, wanted=0, launching=0) == ("wait", 1, 15)
    assert looked(judged, running=0, wanted=0, launching=0, zeros=1) == ("empty", 2, 15)
    assert looked(judged, running=0, wanted=0, launching=1, zeros=1) == ("wait", 0, 15)
    assert looked(judged, running=3, wanted=0, launching=0, zeros=1) == ("wait", 0, 15)
    assert looked(judged, running=0, wanted=2, launching=0, zeros=1) == ("hold", 0, 15)
    # AND an order that is old is repeated, the lease renewed; and looks come less often with time
    assert looked(judged, running=3, wanted=0, launching=0, held_at=0) == ("hold", 0, 15)
    assert looked(judged, running=3, wanted=0, launching=0, looks=8) == ("wait", 0, 60)
    # AND no way leads from the loop's choice to its next look without the pause
    avoided = frozenset({"Wait for the nodes to go", "Nodes to start?"})
    assert CONFIRM not in asl.reachable(states, start=states[CONFIRM]["Next"], avoiding=avoided)


@pytest.mark.every_group
def test_launches_without_an_instance_are_counted(definition: Mapping[str, Any]) -> None:
    """A launch that has begun and not ended counts, and a termination does not."""
    # GIVEN
    expression = bare(states_of(definition)["Look for launches"]["Assign"]["launching"])
    activities = [
        {"StatusCode": code, "Description": f"{what} EC2 instance"}
        for code in ("Successful", "Failed", "Cancelled", "WaitingForSpotInstanceId", "PreInService", "InProgress")
        for what in ("Launching a new", "Terminating")
    ]
    cases: list[dict[str, Any]] = [{"states": {"result": {"Activities": found}}} for found in (activities, [])]
    # WHEN / THEN
    assert by_reference(cases, expression) == [evaluate(expression, case) for case in cases] == [3, 0]


@pytest.mark.every_group
@pytest.mark.parametrize("staying", [0, 1, 3, 60])
def test_instances_that_stay_are_ended_by_id(definition: Mapping[str, Any], staying: int) -> None:
    """Instances that are protected, in standby or retained by a policy are ended by id, ten at a time."""
    # GIVEN
    expression = bare(states_of(definition)[CONFIRM]["Assign"]["staying"])
    kinds = (("InService", True), ("Standby", False), ("Terminating:Retained", False))
    stay = [(f"i-{number}", *kinds[number % 3]) for number in range(staying)]
    instances = [
        {"InstanceId": name, "LifecycleState": state, "ProtectedFromScaleIn": protected}
        for name, state, protected in [("i-going", "Terminating", False), *stay]
    ]
    variables = {"states": {"result": {"AutoScalingGroups": [{"Instances": instances}]}}}
    # WHEN
    (found,) = by_reference([variables], expression)
    # THEN
    assert found == evaluate(expression, variables) == [name for name, _, _ in stay[:10]]


def test_every_variable_is_assigned_before_it_is_read(any_definition: Mapping[str, Any]) -> None:
    """Every variable is assigned on every way to a state that reads it; only a run would show the error."""
    assert unassigned(any_definition) == []


def unassigned(definition: Mapping[str, Any], *, given: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """List (state, variable) of what is read before it is assigned, inside maps and branches as well."""
    states = states_of(definition)
    known = asl.assigned_before(states, start=definition["StartAt"], given=given)
    assert set(known) == set(states), "every state can be reached"
    found = []
    for name, state in states.items():
        missing = asl.variables_read({**state, "ItemProcessor": {}, "Branches": []}) - known[name]
        found += [(name, variable) for variable in sorted(missing)]
        for inner in asl.inside(state):
            found += unassigned(inner, given=known[name])
    return found


def test_no_variable_inside_hides_one_outside(any_definition: Mapping[str, Any]) -> None:
    """No variable inside a map or branch has the name of one outside, which AWS refuses ("Variables" in its guide)."""
    states = states_of(any_definition)
    outside = {name for edge in asl.edges(states) for name in edge.assigns}
    for state in states.values():
        for inner in asl.inside(state):
            assert {name for edge in asl.edges(inner["States"]) for name in edge.assigns} & outside == set()


def test_every_call_exists_in_the_service_models(any_definition: Mapping[str, Any]) -> None:
    """Every call has an action and parameters of AWS's service models, and no required one is missing."""
    calls = list(sdk_calls(any_definition))
    assert len(calls) >= 10
    for name, service, action, arguments in calls:
        client = boto3.client(BOTOCORE_NAMES.get(service, service), region_name="us-east-1")
        operation = client.meta.service_model.operation_model(action[0].upper() + action[1:])
        assert problems(arguments, operation.input_shape, name) == []


def step_functions_name(member: str) -> str:
    """
    Spell a member of a service's model as Step Functions does: as the AWS SDK for Java, in PascalCase.

    The SDK for Java lowers the leading run of capitals, but for its last one before a small letter (aws-sdk-java-v2,
    `Utils.unCapitalize`); Step Functions raises the first letter (its guide, "Learning to use AWS service SDK
    integrations"). So RDS's `DBInstanceIdentifier` is `DbInstanceIdentifier` in definitions that AWS publishes.
    """
    run = re.match(r"[A-Z]+(?![a-z])|.", member)
    assert run, "a member has a name"
    spelt = run[0].lower() + member[run.end() :]
    return spelt[0].upper() + spelt[1:]


@pytest.mark.parametrize(
    ("member", "spelt"),
    [
        ("VPCZoneIdentifier", "VpcZoneIdentifier"),
        ("DBInstanceIdentifier", "DbInstanceIdentifier"),
        ("LaunchTemplateId", "LaunchTemplateId"),
        ("ETag", "ETag"),
        ("executionArn", "ExecutionArn"),
        ("BOOL", "Bool"),
        ("S", "S"),
    ],
)
def test_names_are_spelt_as_step_functions_does(member: str, spelt: str) -> None:
    """Members are spelt as in AWS's published definitions and in recorded runs."""
    assert step_functions_name(member) == spelt


def problems(value: Any, shape: Shape | None, place: str) -> list[str]:
    """List where *value* does not fit *shape*; JSONata may become anything."""
    if isinstance(value, str) and value.startswith("{%"):
        return []
    if isinstance(shape, StructureShape):
        members = {step_functions_name(member): inner for member, inner in shape.members.items()}
        found = [f"{place}: no parameter {key}" for key in value if key not in members]
        required = map(step_functions_name, shape.required_members)
        found += [f"{place}: {key} is required" for key in required if key not in value]
        return found + [
            text
            for key, item in value.items()
            if key in members
            for text in problems(item, members[key], f"{place}.{key}")
        ]
    if isinstance(shape, ListShape):
        if not isinstance(value, list):
            return [f"{place}: not a list"]
        return [text for index, item in enumerate(value) for text in problems(item, shape.member, f"{place}[{index}]")]
    if isinstance(shape, MapShape):
        return [text for key, item in value.items() for text in problems(item, shape.value, f"{place}.{key}")]
    assert shape is not None, place
    if shape.type_name == "string" and shape.enum and value not in shape.enum:  # type: ignore[attr-defined]
        return [f"{place}: {value} is none of {shape.enum}"]  # type: ignore[attr-defined]
    kinds = {"string": str, "integer": int, "long": int, "boolean": bool, "blob": str}
    return [] if isinstance(value, kinds[shape.type_name]) else [f"{place}: {value!r} is no {shape.type_name}"]


def test_every_member_of_a_result_exists(any_definition: Mapping[str, Any]) -> None:
    """Every member that an expression reads is in the service's answer, as Step Functions spells it."""
    read = 0
    for name, state in asl.all_states(any_definition):
        match = re.fullmatch(SDK_INTEGRATION, str(state.get("Resource")))
        if match is None or match[3] or match[1] == "pricing":
            # The result of a token task is a node's answer; the Price List's products are JSON in a text.
            continue
        client = boto3.client(BOTOCORE_NAMES.get(match[1], match[1]), region_name="us-east-1")
        output = client.meta.service_model.operation_model(match[2][0].upper() + match[2][1:]).output_shape
        known = names_in(output)
        for expression in asl.expressions([state.get("Assign", {}), state.get("Output", {})]):
            code = re.sub(r"'[^']*'|/(?:[^/\\]|\\.)+/", "''", expression)
            # Members of ours begin with a small letter; those of the context object are not of the result.
            members = set(re.findall(r"\.([A-Z]\w*)", re.sub(r"\$states\.context[.\w]*", "", code)))
            assert members <= known, name
            read += len(members)
            for path in re.findall(r"\$states\.result((?:\.[A-Z]\w*)+)", code):
                assert goes_through(output, path.split(".")[1:]), (name, path)
    assert read > 1


def names_in(shape: Shape | None, seen: frozenset[str] = frozenset()) -> set[str]:
    """List the names of all members below *shape*, as Step Functions spells them."""
    if isinstance(shape, ListShape):
        return names_in(shape.member, seen)
    if isinstance(shape, MapShape):
        return names_in(shape.value, seen)
    if not isinstance(shape, StructureShape) or shape.name in seen:
        return set()
    found = {step_functions_name(member) for member in shape.members}
    return found.union(*(names_in(inner, seen | {shape.name}) for inner in shape.members.values()))


def goes_through(shape: Shape | None, path: list[str]) -> bool:
    """Tell whether *path* leads through the members of *shape*; JSONata steps into the items of lists by itself."""
    while isinstance(shape, ListShape):
        shape = shape.member
    if not path or isinstance(shape, MapShape):
        return True
    if not isinstance(shape, StructureShape):
        return False
    members = {step_functions_name(member): inner for member, inner in shape.members.items()}
    return path[0] in members and goes_through(members[path[0]], path[1:])


def test_every_caught_error_exists(any_definition: Mapping[str, Any]) -> None:
    """Every error of a Catch or Retry exists, because a misspelt one silently never matches."""
    for name, state in asl.all_states(any_definition):
        for handler in (*state.get("Catch", ()), *state.get("Retry", ())):
            for error in handler["ErrorEquals"]:
                if error.startswith("States."):
                    assert error in STATES_ERRORS, name
                    continue
                if error in (contract.ERROR_LEADER_LOST, contract.ERROR_NODE_FAILED):
                    # What a node answers, in a task that asks one.
                    assert state["Resource"].endswith(".waitForTaskToken"), name
                    continue
                prefix, exception = error.split(".")
                if exception in (f"{prefix}Exception", "SdkClientException"):
                    # The SDK's own classes: of every answer of this service, and of none at all.
                    continue
                service = SERVICE_ERRORS[prefix]
                model = boto3.client(BOTOCORE_NAMES.get(service, service)).meta.service_model
                # The SDK for Java, whose names Step Functions uses, ends every one with the same word.
                names = [shape.name.removesuffix("Exception") + "Exception" for shape in model.error_shapes]
                assert exception in names, name
                # A Parallel hands on the errors of its branches.
                inner = [each for branch in state.get("Branches", ()) for _, each in asl.all_states(branch)]
                assert any(f":{service}:" in str(each.get("Resource")) for each in (state, *inner)), name


def test_own_errors_do_not_pretend_to_be_states_errors() -> None:
    """No error of our own begins with `States.`, which Step Functions refuses in a Fail state."""
    names = [value for key, value in vars(contract).items() if key.startswith("ERROR_")]
    assert len(names) > 5
    assert [name for name in names if not re.fullmatch(r"[A-Z][A-Za-z]+", name)] == []


MAPS_OF_A_RUN = {
    "ec2": [],
    "ecs": ["Choose the tasks", "Ask ECS"],
    "sagemaker": ["Terminate", "Read the bills"],
}
MAPS_OF_THE_CLEAN_UP = {"ec2": [], "ecs": [], "sagemaker": ["Terminate", "Read the bills"]}
MAPS_OF_A_FLEET = {"ec2": [], "ecs": [], "sagemaker": ["Terminate"]}
"""
Maps of an engine's states. Those of ECS go over its services, of which there is one for each number of GPUs; those of
SageMaker over jobs, of which a fleet has one at a time and a run one for each attempt.
"""


def test_the_number_of_calls_does_not_depend_on_the_nodes(template: Mapping[str, Any], engine: str) -> None:
    """Maps go over channels, instance types, services, fleets, jobs and queued runs, and never over nodes."""
    maps = {
        layer: [
            name
            for name, state in asl.all_states(definition)
            # A map over nothing sets variables, and one look gives ten instances by id at most.
            if (state["Type"] == "Map" or len(state.get("Branches", ())) > 1)
            and state.get("Items") not in ("{% [] %}", "{% $staying %}", "{% $lost_instances %}")
        ]
        for layer, definition in by_layer(template).items()
    }
    assert maps == {
        "run": ["Check the data", "Look up On-Demand prices", *MAPS_OF_A_RUN[engine]],
        "clean-up": [*MAPS_OF_THE_CLEAN_UP[engine]],
        "reaper": ["Look at every fleet", *MAPS_OF_A_FLEET[engine], "Have every dead run cleaned up"],
    }


def test_no_lambda_and_no_custom_resource(template: Mapping[str, Any]) -> None:
    """The stack has nothing to patch, and the local cloud can deploy all of it."""
    kinds = {resource["Type"] for resource in template["Resources"].values()}
    assert [kind for kind in kinds if kind.startswith(("AWS::Lambda", "Custom::", "AWS::CloudFormation::Custom"))] == []


def validate(definition: Mapping[str, Any], path: Path) -> subprocess.CompletedProcess[str]:
    """Give asl-validator the resolved definition: in the template's joined string, linters see nothing."""
    path.write_text(json.dumps(definition))
    return subprocess.run(
        ["node", "node_modules/.bin/asl-validator", "--json-path", str(path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_asl_validator_accepts_the_definition(any_definition: Mapping[str, Any], tmp_path: Path) -> None:
    """asl-validator accepts every definition and the syntax of every JSONata expression."""
    # WHEN
    done = validate(any_definition, tmp_path / "definition.asl.json")
    # THEN
    assert done.returncode == 0, done.stdout + done.stderr


def test_asl_validator_refuses_a_broken_definition(definition: Mapping[str, Any], tmp_path: Path) -> None:
    """asl-validator does read these states: it finds one misspelt `Next`."""
    # GIVEN a definition with a way to nowhere
    broken = {**definition, "States": {**definition["States"], "Trained": {"Type": "Pass", "Next": "Nowhere"}}}
    # WHEN
    done = validate(broken, tmp_path / "definition.asl.json")
    # THEN
    assert done.returncode != 0
    assert "Nowhere" in done.stdout + done.stderr


def test_no_expression_reads_an_input_that_it_has_not(any_definition: Mapping[str, Any]) -> None:
    """No expression reads `$`, `$$` or a bare field name, which have no input in Step Functions."""
    # GIVEN every expression of the definition, parsed by JSONata itself
    expressions = sorted(set(asl.expressions(dict(any_definition))))
    script = """
      const jsonata = require("jsonata");
      const bare = (node, found) => {
        if (Array.isArray(node)) node.forEach(item => bare(item, found));
        else if (node && typeof node === "object") {
          if (node.type === "path" && node.steps[0].type === "name") found.push(node.steps[0].value);
          if (node.type === "variable" && (node.value === "" || node.value === "$")) found.push("$" + node.value);
          Object.values(node).forEach(item => bare(item, found));
        }
        return found;
      };
      const expressions = JSON.parse(require("fs").readFileSync(0, "utf8"));
      console.log(JSON.stringify(expressions.map(text => [text, bare(jsonata(text).ast(), [])])));
    """
    # WHEN looking for paths that begin with the context
    done = subprocess.run(
        ["node", "-e", script],
        cwd=REPOSITORY,
        input=json.dumps(expressions),
        capture_output=True,
        text=True,
        check=True,
    )
    # THEN there are none
    found = dict(json.loads(done.stdout))
    assert len(found) > 20
    assert {text: names for text, names in found.items() if names} == {}
