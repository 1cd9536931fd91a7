"""The engine protocol, by an engine that a user writes with public names alone: a rack that is switched by messages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Duration, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from cdk_horovod import (
    EngineConfig,
    EngineTarget,
    FleetConfig,
    HorovodTraining,
    ProviderWords,
    Steps,
    TrainingImage,
    TrainingStorage,
)
from cdk_horovod.asl.resolved import by_layer
from cdk_horovod.workflow.run_timeouts import LOOKS
from horovod_node import contract
from support import asl

pytestmark = pytest.mark.synth

START, CONFIRM = "Switch on", "Count hosts"
NO_POWER = "Sqs.UnsupportedOperationException"
LEASE_LOST = "DynamoDb.ConditionalCheckFailedException"
ON = "$number($states.result.Item.gpus_on.N)"


class RackStates:
    """Switches a rack on and off as a whole by a queue's messages, and reads from a table what is on."""

    def __init__(self, *, commands: sqs.IQueue, hosts: dynamodb.ITable) -> None:
        self._commands = commands
        self._hosts = hosts

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> Steps:
        return (self._send(scope, START, "{% $string({'on': $request.gpus}) %}", assign=assign),)

    def tag(self, scope: Construct) -> Steps:  # noqa: ARG002
        return ()

    def look(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]]) -> Steps:
        return (self._read(scope, "See which hosts are on", assign=judged(ON, "false")),)

    def explain(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> Steps:
        return (self._read(scope, "Read why", assign=judged("[$states.result.Item.trouble.S]")),)

    def replace(self, scope: Construct) -> Steps:  # noqa: ARG002
        return ()

    def restore(self, scope: Construct) -> Steps:  # noqa: ARG002
        return ()

    def terminate(self, scope: Construct) -> Steps:
        return (self._send(scope, "Switch off", "{'on': 0}"),)

    def confirm(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]] | None = None) -> Steps:
        assign = {"running": f"{{% {ON} %}}", **({} if judged is None else judged(ON, "0"))}
        return (self._read(scope, CONFIRM, assign=assign),)

    def end(self, scope: Construct) -> Steps:  # noqa: ARG002
        return ()

    def bill(self, scope: Construct) -> Steps:  # noqa: ARG002
        return ()

    def _send(
        self, scope: Construct, name: str, body: str, *, assign: Mapping[str, Any] | None = None
    ) -> tasks.CallAwsService:
        return tasks.CallAwsService.jsonata(
            scope,
            name,
            service="sqs",
            action="sendMessage",
            parameters={"QueueUrl": self._commands.queue_url, "MessageBody": body},
            iam_resources=[self._commands.queue_arn],
            assign=assign,
            outputs={},
        )

    def _read(self, scope: Construct, name: str, *, assign: Mapping[str, Any]) -> tasks.CallAwsService:
        return tasks.CallAwsService.jsonata(
            scope,
            name,
            service="dynamodb",
            action="getItem",
            parameters={"TableName": self._hosts.table_name, "Key": {"rack": {"S": "1"}}},
            iam_resources=[self._hosts.table_arn],
            assign=assign,
            outputs={},
        )


class RackEngine:
    """Runs nodes on the hosts of one rack."""

    def __init__(self, *, commands: sqs.IQueue, hosts: dynamodb.ITable, host_role: iam.IRole) -> None:
        self._states = RackStates(commands=commands, hosts=hosts)
        self._host_role = host_role

    def bind(self, scope: Construct, target: EngineTarget) -> EngineConfig:  # noqa: ARG002
        """Describe the rack as one fleet of up to 16 GPUs."""
        fleet = FleetConfig(
            id="Rack",
            group="rack",
            size=contract.FleetSize(max_gpus=16, gpu_step=8),
            types={"host": 8},
            engine="Rack",
            node_role=self._host_role,
            plan=(
                {
                    "words": "the rack",
                    "time_limit": None,
                    "empties": False,
                    "market": contract.ON_DEMAND,
                    "leader_market": contract.ON_DEMAND,
                    "base": 0,
                    "families": [],
                },
            ),
        )
        words = ProviderWords(
            service="The rack",
            provider="The rack",
            spot_quota="no spot",
            on_demand_quota="no power",
            no_capacity="no host",
            throttled="busy",
            quotas={contract.SPOT: {}, contract.ON_DEMAND: {}},
        )
        return EngineConfig(
            fleets=(fleet,),
            states=self._states,
            words=words,
            look_interval=Duration.minutes(1),
            refusals=(NO_POWER,),
        )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The template of a training on the rack."""
    folder: Path = tmp_path_factory.mktemp("rack")
    app = App(outdir=str(folder))
    stack = Stack(app, "Rack")
    table = dynamodb.Table(
        stack, "Hosts", partition_key=dynamodb.Attribute(name="rack", type=dynamodb.AttributeType.STRING)
    )
    engine = RackEngine(
        commands=sqs.Queue(stack, "Commands"),
        hosts=table,
        host_role=iam.Role(stack, "Host", assumed_by=iam.AccountRootPrincipal()),
    )
    training = HorovodTraining(
        stack,
        "Training",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
        engine=engine,
    )
    training.grant_start(iam.Role(stack, "Person", assumed_by=iam.AccountRootPrincipal()))
    app.synth()
    found: Mapping[str, Any] = json.loads((folder / "Rack.template.json").read_text())
    return found


def test_another_engine_needs_no_auto_scaling(template: Mapping[str, Any]) -> None:
    """Neither a state, nor a permission, nor the connection of a training on another engine names Auto Scaling."""
    text = json.dumps(template).lower().replace("-", "").replace(" ", "")
    assert "autoscaling" not in text
    assert "ec2:runinstances" not in text
    (output,) = [
        output for output in template["Outputs"].values() if output["Description"] == contract.CONNECTION_DESCRIPTION
    ]
    assert '\\"group\\"' not in json.dumps(output)


def test_every_way_from_the_start_ends_empty(template: Mapping[str, Any]) -> None:
    """Whatever an engine leaves out, no way from the start of nodes leads past the look that sees none."""
    # GIVEN a run that keeps its lease
    states: dict[str, asl.State] = {
        name: {**state, "Catch": [catch for catch in state.get("Catch", ()) if catch["ErrorEquals"] != [LEASE_LOST]]}
        for name, state in by_layer(template)["run"]["States"].items()
    }
    # WHEN
    past = asl.reachable(states, start=START, avoiding=frozenset({CONFIRM}))
    # THEN
    assert CONFIRM in asl.reachable(states, start=START)
    assert not {name for name in past if states[name]["Type"] in asl.TERMINAL}


def test_nodes_that_cannot_be_replaced_begin_in_an_empty_fleet(template: Mapping[str, Any]) -> None:
    """A run that lost its leader begins its next attempt behind the emptying."""
    states: Mapping[str, asl.State] = by_layer(template)["run"]["States"]
    # WHEN
    begin = states["Begin the next attempt"]
    # THEN
    assert states[begin["Next"]]["Assign"] == {"must_be_empty": True}
    assert START not in asl.reachable(states, start=begin["Next"], avoiding=frozenset({CONFIRM}))


def test_every_machine_reads_what_is_assigned(template: Mapping[str, Any]) -> None:
    """No state of any machine reads a variable that only the states of another engine set."""
    for layer, definition in by_layer(template).items():
        states: Mapping[str, asl.State] = definition["States"]
        known = asl.assigned_before(states, start=definition["StartAt"])
        for name, state in states.items():
            assert asl.variables_read({**state, "ItemProcessor": {}}) - known[name] == set(), (layer, name)


def test_a_refusal_is_an_answer(template: Mapping[str, Any]) -> None:
    """Where the rack refuses to switch on, its words are judged; other errors end the run."""
    states: Mapping[str, asl.State] = by_layer(template)["run"]["States"]
    refused, other = states[START]["Catch"]
    # THEN
    assert (refused["ErrorEquals"], refused["Next"]) == ([NO_POWER], "Another attempt?")
    assert "[$states.errorOutput.Cause]" in refused["Assign"]["search"]
    assert (other["ErrorEquals"], other["Next"]) == (["States.ALL"], "Hold the fleet")


def test_the_rack_is_looked_at_every_minute(template: Mapping[str, Any]) -> None:
    """Until a node has joined, the ring's heartbeat is the pause between two looks, as long as the history has room."""
    heartbeat = asl.bare(by_layer(template)["run"]["States"]["Wait for the ring"]["HeartbeatSeconds"])
    attempt = {"first": 900, "seconds": 1800}
    searches = [{"attempt": attempt, "since": int(time.time()), "looks": looks} for looks in (0, LOOKS)]
    assert asl.by_reference([{"search": search} for search in searches], heartbeat) == [60, 900]


def test_the_racks_own_words_end_the_run(template: Mapping[str, Any]) -> None:
    """What the rack says is repeated in its name."""
    search = by_layer(template)["run"]["States"]["Read why"]["Assign"]["search"]
    assert "'The rack said: '" in search
    assert "EC2" not in search
