"""The run queue under test: how a test makes runs wait, and what the histories of their executions say of the wait."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cdk_horovod.workflow.run_queue import LOOKS_MISSED
from horovod_client import Fleet, Run
from horovod_node import contract
from support.faults.lab import ONE, POLL, TWO, Lab

QUEUE_TIMEOUT = 360
"""Seconds; as the lab is deployed, where the interval between two looks is `POLL`."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """
    A look at the line.

    Args:
        asked: When the ledger was asked.
        answered: When its answer was there; whoever asked later saw the run in line.
        seen: The runs in line, the one that looked among them.
    """

    asked: datetime
    answered: datetime
    seen: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Wait:
    """
    What became of a run that waited.

    Args:
        run: Name of the run.
        gpus: What it needs.
        place: Its place in the line, in milliseconds; of two with the same, the name decides.
        looks: All its looks.
        fleet: The one that it reserved, if it did.
        reserved_at: When it did.
        ended_at: When its execution ended.
    """

    run: str
    gpus: int
    place: int
    looks: tuple[Look, ...]
    fleet: Fleet | None
    reserved_at: datetime | None
    ended_at: datetime


def wait_of(lab: Lab, run: Run) -> Wait:
    """Read the history of a run that has ended."""
    stepfunctions = lab.cloud.client("stepfunctions")
    execution = stepfunctions.describe_execution(executionArn=run.execution_arn)
    looks, place, reserved_at, state, asked = [], 0, None, "", execution["startDate"]
    pages = stepfunctions.get_paginator("get_execution_history").paginate(executionArn=run.execution_arn)
    for event in (event for page in pages for event in page["events"]):
        if "stateEnteredEventDetails" in event:
            state = event["stateEnteredEventDetails"]["name"]
        elif event["type"] == "TaskScheduled":
            asked = event["timestamp"]
        elif event["type"] == "TaskSucceeded" and state == "Reserve a fleet":
            reserved_at = event["timestamp"]
        elif event["type"] == "TaskSucceeded" and state == "Poll the queue":
            line = json.loads(event["taskSucceededEventDetails"]["output"])["Attributes"]
            seen = {name.removeprefix(contract.PLACE_PREFIX) for name in line if name.startswith(contract.PLACE_PREFIX)}
            place = int(line[contract.PLACE_PREFIX + run.name]["N"])
            looks.append(Look(asked=asked, answered=event["timestamp"], seen=frozenset(seen)))
    item = lab.app.item(contract.run_key(run.run_id)) or {}
    reserved = item.get(contract.FLEET, {}).get("S")
    return Wait(
        run=run.name,
        gpus=json.loads(execution["input"])[contract.GPUS],
        place=place,
        looks=tuple(looks),
        fleet=next((fleet for fleet in lab.app.training.connection.fleets if fleet.id == reserved), None),
        reserved_at=reserved_at,
        ended_at=execution["stopDate"],
    )


def overtakings(waits: Sequence[Wait]) -> list[tuple[str, str]]:
    """
    List who was overtaken by whom, against the promise: first come, first served.

    A run is overtaken when another one, whose place is behind its own, reserves a fleet that it could have used, while
    it waits. One race alone is none of that: a run takes its place before it has told the ledger of it. So it may be
    overtaken by a run whose last look at the line was asked for before its own first look was answered: that run could
    not see it.
    """
    return [
        (first.run, second.run)
        for first in waits
        for second in waits
        if (first.place, first.run) < (second.place, second.run)
        and second.fleet is not None
        and second.reserved_at is not None
        and second.fleet.fits(first.gpus)
        and second.reserved_at < (first.reserved_at or first.ended_at)
        and second.looks[-1].asked >= first.looks[0].answered
    ]


@contextlib.contextmanager
def taken(lab: Lab, *fleets: int) -> Iterator[None]:
    """Let the reaper hold *fleets*, as if it were emptying them, so that runs wait for them."""
    dynamodb, table = lab.cloud.client("dynamodb"), lab.app.training.connection.ledger_table
    keys = [
        {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}
        for partition, sort in (contract.lease_key(lab.app.training.connection.fleets[fleet].id) for fleet in fleets)
    ]
    for key in keys:
        lease = {
            contract.RUN: {"S": contract.REAPER},
            contract.EXECUTION: {"S": "a test"},
            contract.EXPIRES_AT: {"N": str(int(time.time()) + QUEUE_TIMEOUT)},
        }
        dynamodb.put_item(TableName=table, Item={**key, **lease})
    try:
        yield
    finally:
        for key in keys:
            dynamodb.delete_item(TableName=table, Key=key)


@contextlib.contextmanager
def queue_of(lab: Lab, *, interval: int = POLL, timeout: int = QUEUE_TIMEOUT) -> Iterator[None]:
    """Give runs that are started now another queue: seconds between two looks, and seconds until they give up."""
    stepfunctions, training = lab.cloud.client("stepfunctions"), lab.app.training.connection.state_machine
    deployed = stepfunctions.describe_state_machine(stateMachineArn=training)["definition"]
    definition = json.loads(deployed)
    states = definition["States"]
    states["Wait in the queue"]["Seconds"] = interval
    give_up = states["First in the queue?"]["Choices"][1]
    for holder, name, text, deployed_as, wanted in (
        (
            states["Poll the queue"]["Assign"],
            "eligible_fleets",
            "seen_at + {} >",
            LOOKS_MISSED * POLL,
            LOOKS_MISSED * interval,
        ),
        (give_up, "Condition", "> {} ", QUEUE_TIMEOUT * 1000, timeout * 1000),
        (give_up["Assign"]["outcome"], "cause", "in {} s", QUEUE_TIMEOUT, timeout),
    ):
        assert text.format(deployed_as) in holder[name]
        holder[name] = holder[name].replace(text.format(deployed_as), text.format(wanted))
    stepfunctions.update_state_machine(stateMachineArn=training, definition=json.dumps(definition))
    try:
        yield
    finally:
        stepfunctions.update_state_machine(stateMachineArn=training, definition=deployed)


def is_quiet(lab: Lab) -> bool:
    """Whether nobody waits, nobody holds a fleet, and nothing runs."""
    return (
        lab.app.queue() == []
        and all(lab.app.lease(fleet) is None for fleet in (ONE, TWO))
        and all(lab.is_at_rest(fleet) for fleet in (ONE, TWO))
    )


def silence(lab: Lab, *runs: str) -> None:
    """Let *runs* have looked at the line for the last time so long ago that the reaper looks after them."""
    dynamodb = lab.cloud.client("dynamodb")
    partition, sort = contract.queue_key(lab.app.training.connection.queue)
    for run in runs:
        # One that leaves the line just now needs it no more.
        with contextlib.suppress(dynamodb.exceptions.ConditionalCheckFailedException):
            dynamodb.update_item(
                TableName=lab.app.training.connection.ledger_table,
                Key={contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}},
                UpdateExpression="SET #waiter.#seen = :long_ago",
                ConditionExpression="attribute_exists(#waiter)",
                ExpressionAttributeNames={"#waiter": contract.WAITER_PREFIX + run, "#seen": contract.SEEN_AT},
                ExpressionAttributeValues={":long_ago": {"N": "0"}},
            )
