"""What a run's items in the ledger become: nodes, phase, progress, spend, and why it waits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from horovod_client import (
    CapacitySearch,
    Holder,
    JobStatus,
    NodeStatus,
    RunStatus,
    Spend,
    TrainingProgress,
    explain_waiting,
)
from horovod_client.aws.ledger_items import RunItems
from horovod_client.status.instances import Instance
from horovod_client.status.nodes import nodes_of
from horovod_client.status.phase import phase_of
from horovod_client.status.progress import progress_of
from horovod_client.status.spend import spend_of, spend_of_receipt
from horovod_node import contract

RUN = ("TrainingFleet", "digits")
"""A fleet, and the id of its run."""
NOW = 10_000.0
TYPES = {"g5.xlarge": 1, "g5.12xlarge": 4}
PRICES = [
    {"instance_type": "g5.xlarge", "market": "spot", "zone": "eu-west-1a", "usd": 0.4},
    {"instance_type": "g5.xlarge", "market": "spot", "zone": "eu-west-1b", "usd": 0.6},
    {"instance_type": "g5.xlarge", "market": "on-demand", "zone": "", "usd": 1.0},
]


def item(key: tuple[str, str], **attributes: str | float) -> Any:
    """Write an item as DynamoDB gives it."""
    partition, sort = key
    values = {name: {"S": value} if isinstance(value, str) else {"N": str(value)} for name, value in attributes.items()}
    return {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}, **values}


def node(name: str, *, attempt: int = 1, **changes: str | float) -> Any:
    """Write the item of a node that is there."""
    attributes: dict[str, str | float] = {
        "node": name,
        "gpus": 1,
        "instance_type": "g5.xlarge",
        "market": "spot",
        "zone": "eu-west-1a",
        "state": "ready",
        "step": 0,
        "booted_at": NOW - 3600,
        "joined_at": NOW - 3500,
        "seen_at": NOW - 5,
    }
    return item(contract.node_key(*RUN, attempt, name), **(attributes | changes))


def run_item(**attributes: str | float) -> Any:
    """Write the run's own item, with prices."""
    return item(contract.run_key("digits"), **{"prices_json": json.dumps(PRICES), **attributes})


def test_lists_the_nodes_of_the_present_attempt() -> None:
    """The leader comes first, nodes of lost attempts are left out, and those that have not joined are marked."""
    # GIVEN
    items = RunItems.of(
        [
            run_item(),
            node("i-b", attempt=1),
            node("i-a", attempt=2, state="joined"),
            node("i-c", attempt=2, market="on-demand"),
            item(contract.leader_key(*RUN, 2), node="i-c"),
            item(
                contract.boot_key(*RUN, "i-d"),
                node="i-d",
                instance_type="g5.12xlarge",
                seen_at=NOW - 9,
            ),
            item(
                contract.boot_key(*RUN, "i-gone"),
                node="i-gone",
                instance_type="g5.xlarge",
                seen_at=NOW - 99,
            ),
        ]
    )
    there = [
        Instance(id=name, instance_type="g5.xlarge", zone="eu-west-1b", gpus=1) for name in ("i-a", "i-c", "i-d", "i-e")
    ]

    # WHEN
    nodes = nodes_of(items, instances=there, starting=True, gpus_of=TYPES, now=NOW)

    # THEN
    assert [(n.node, n.state, n.gpus, n.leads, n.usd_per_hour) for n in nodes] == [
        ("i-c", "ready", 1, True, 1.0),
        ("i-a", "joined", 1, False, 0.4),
        ("i-d", "pulling the image", 4, False, None),
        ("i-e", "started", 1, False, None),
    ]
    assert [n.node for n in nodes_of(items, starting=False, gpus_of=TYPES, now=NOW)] == ["i-c", "i-a"]
    # A user who may not ask which machines are there still learns of those that gave a sign of life.
    assert [n.node for n in nodes_of(items, starting=True, gpus_of=TYPES, now=NOW)] == ["i-c", "i-a", "i-d", "i-gone"]


def a_node(state: str, *, seen_at: float | None = NOW - 40) -> NodeStatus:
    """Make a node with one GPU."""
    return NodeStatus(
        node=f"i-{state[0]}", state=state, gpus=1, instance_type="g5.xlarge", market="", zone="", seen_at=seen_at
    )


@pytest.mark.parametrize(
    ("stage", "states", "times", "phase"),
    [
        (None, [], {}, None),
        ("queued", [], {}, "queue"),
        ("starting", [], {}, "capacity"),
        ("joining", ["ready"], {}, "capacity"),
        ("joining", ["ready", "started"], {}, "boot"),
        ("joining", ["joined", "pulling the image"], {}, "image pull"),
        ("joining", ["ready", "joined"], {}, "joining"),
        ("training", ["training", "training"], {}, "training"),
        ("saving", ["done"], {}, "saving"),
        ("saving", ["done"], {"saved_at": "2025-03-01T10:00:00Z"}, "terminating"),
        ("succeeded", [], {}, "terminating"),
        ("failed", [], {}, "terminating"),
    ],
)
def test_names_the_phase(stage: str | None, states: list[str], times: dict[str, str], phase: str | None) -> None:
    """The slowest node decides the phase, and a run with fewer GPUs than it needs still looks for capacity."""
    nodes = [a_node(state) for state in states]
    assert phase_of(stage=stage, ended=False, gpus=2, nodes=nodes, times=times) == phase
    assert phase_of(stage=stage, ended=True, gpus=2, nodes=nodes, times=times) == (stage and "ended")


def test_tells_progress_and_the_time_that_is_left() -> None:
    """The remaining time follows the measured pace, or without one the mean since the ring was formed."""
    # GIVEN
    facts = {"step": 100, "steps": 300, "epoch": 2, "epochs": 6, "loss": 0.5, "ranks": 4, "resets": 1, "at": 1_100.0}
    measured = facts | {"compute_seconds_per_step": 0.3, "wait_seconds_per_step": 0.1}
    # 1970-01-01T00:15:00Z is 900 s after the epoch: 200 s for 100 steps.
    run = run_item(times_json=json.dumps({"ring_at": "1970-01-01T00:15:00Z"}))

    # WHEN
    found = [
        progress_of(
            RunItems.of([run, item(contract.progress_key(*RUN), progress_json=json.dumps(f))]),
            now=NOW,
        )
        for f in (measured, facts, facts | {"steps": None})
    ]

    # THEN
    expected = TrainingProgress(step=100, steps=300, epoch=2, epochs=6, loss=0.5, ranks=4, resets=1)
    assert found == [
        replace(expected, eta_seconds=pytest.approx(80)),
        replace(expected, eta_seconds=pytest.approx(400)),
        replace(expected, steps=None),
    ]
    assert progress_of(RunItems.of([run]), now=NOW) is None


def test_adds_up_what_the_nodes_cost() -> None:
    """A node costs until now, or until it was last seen, and each one counts once."""
    # GIVEN
    items = [
        run_item(ceiling_usd=50),
        node("i-a", attempt=1),
        node("i-a", attempt=2),
        node("i-lost", zone="eu-west-1b", booted_at=NOW - 7200, seen_at=NOW - 3600),
        item(
            contract.boot_key(*RUN, "i-new"),
            instance_type="g5.xlarge",
            booted_at=NOW - 360,
            seen_at=NOW - 9,
        ),
    ]

    # WHEN
    running, ended = (spend_of(RunItems.of(items), running=running, now=NOW) for running in (True, False))

    # THEN
    assert running == Spend(usd=pytest.approx(0.4 + 0.6 + 0.1), usd_per_hour=pytest.approx(1.4), ceiling_usd=50)
    assert ended is not None
    assert ended.usd_per_hour == 0
    assert ended.usd < 1.1
    assert spend_of(RunItems.of(items[1:]), running=True, now=NOW) is None


def test_reads_the_cost_out_of_a_receipt() -> None:
    """A receipt with prices gives the cost and what Spot saved."""
    cost = {"usd": 3.5, "usd_per_hour": 7, "on_demand_usd": 10, "saved_usd": 6.5}
    assert spend_of_receipt(cost) == Spend(usd=3.5, usd_per_hour=7, on_demand_usd=10, saved_usd=6.5)
    assert spend_of_receipt({}) is None


QUEUED = RunStatus(run="digits", state="RUNNING", stage="queued", phase="queue", place=2, gpus=2)
JOINING = RunStatus(run="digits", state="RUNNING", stage="joining", phase="capacity", gpus=2)
REFUSED = CapacitySearch(number=2, of=3, attempt="Spot in eu-west-1a", since=9_400, refusal="no Spot capacity")

JOB = JobStatus(
    name="training-1-digits-1",
    status="Starting",
    message="Preparing the instances for training",
    instance_type="ml.g5.xlarge",
    nodes=2,
    there=False,
)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (
            replace(QUEUED, holders=(Holder(fleet="F", run="other", since=6_400), Holder(fleet="G", run="#clean-up"))),
            "waiting for a fleet: place 2 in the queue, run other has held F for 1 h 0 min, "
            "the clean-up of the run before holds G",
        ),
        (replace(QUEUED, place=None), "waiting for a fleet: next as soon as one is free"),
        (
            replace(JOINING, capacity=REFUSED),
            "waiting for capacity: 0 of 2 GPUs, attempt 2 of 3 (Spot in eu-west-1a) for 10 min; "
            "AWS said: no Spot capacity",
        ),
        (
            replace(JOINING, phase="boot", nodes=(a_node("joined"), a_node("started", seen_at=None))),
            "not ready: i-j (downloading script and data, last seen 40 s ago), i-s (started, not seen yet)",
        ),
        (
            replace(JOINING, nodes=(a_node("ready"), a_node("ready"))),
            "waiting for the ring to form: all nodes are there",
        ),
        (
            replace(JOINING, job=JOB),
            "waiting for nodes: 0 of 2 GPUs; job training-1-digits-1 (2 x ml.g5.xlarge) is Starting: Preparing the "
            "instances for training",
        ),
        (replace(JOINING, stage="training", phase="training"), None),
        (replace(JOINING, state="ABORTED"), None),
    ],
)
def test_says_why_it_waits(status: RunStatus, sentence: str | None) -> None:
    """A run waits for the queue and the holders of fleets, for EC2, whose words are quoted, or for nodes to join."""
    assert explain_waiting(status, now=NOW) == sentence
