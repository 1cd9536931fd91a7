"""The live view is drawn from a status alone."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from horovod_client import CapacitySearch, Holder, NodeStatus, RunStatus, Spend, TrainingProgress
from horovod_client.cli.watch.render import NODES_SHOWN, draw

NOW = 1000.0


def drawn(status: RunStatus, *, width: int = 100, **options: object) -> list[str]:
    """Draw into a terminal of *width* columns and give its lines, without colours."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(draw(status, now=NOW, **options))  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def node(number: int, **facts: object) -> NodeStatus:
    """Build a node that trains."""
    known = {"state": "training", "gpus": 1, "instance_type": "g5.xlarge", "market": "spot", "zone": "eu-west-1a"}
    return NodeStatus(node=f"i-{number}", **(known | facts))  # type: ignore[arg-type]


def test_queued_run_says_who_holds_the_fleet() -> None:
    """The phase is marked with its time, and below it stands what the run waits for."""
    # GIVEN
    status = RunStatus(
        run="r",
        state="RUNNING",
        stage="queued",
        phase="queue",
        place=2,
        holders=(Holder(fleet="Big", run="other", since=880),),
        gpus=8,
        started_at=940.0,
    )
    # THEN
    assert drawn(status, since={"queue": 940.0}) == [
        "run r, 8 GPUs, for 60 s",
        "* queue 60 s > capacity > boot > image pull > joining > training > saving > terminating",
        "waiting for a fleet: place 2 in the queue, run other has held Big for 2 min",
    ]


def test_search_for_capacity_carries_the_words_of_ec2() -> None:
    """The search shows the attempt, its age, and EC2's reason for refusing the one before."""
    # GIVEN
    search = CapacitySearch(number=2, of=5, attempt="Spot in eu-west-1a", since=820, refusal="no Spot capacity")
    status = RunStatus(run="r", state="RUNNING", stage="joining", phase="capacity", capacity=search, gpus=2)
    # THEN
    assert " ".join(drawn(status)[2:]) == (
        "waiting for capacity: 0 of 2 GPUs, attempt 2 of 5 (Spot in eu-west-1a) for 3 min; AWS said: no Spot capacity"
    )


def test_training_run_shows_nodes_progress_spend_and_last_lines() -> None:
    """One screen shows the nodes, the progress, the cost so far and rank 0's last lines."""
    # GIVEN
    status = RunStatus(
        run="r",
        state="RUNNING",
        stage="training",
        phase="training",
        gpus=2,
        nodes=(node(1, leads=True, step=120, seen_at=998.0), node(2, interruption="instance-action", seen_at=940.0)),
        progress=TrainingProgress(
            step=120, steps=400, epoch=3, epochs=8, loss=0.4123, samples_per_second=310.4, ranks=2, eta_seconds=150
        ),
        spend=Spend(usd=1.5, usd_per_hour=2.0, ceiling_usd=10.0),
    )
    # WHEN
    lines = drawn(status, lines=[f"line {number}" for number in range(9)])
    # THEN
    assert lines[2:6] == [
        "━━━━━━━━━                      30%, 2 min left",
        "epoch 3/8, step 120/400, loss 0.4123, 310.4 samples/s, 2 ranks",
        "spent 1.50 USD of at most 10.00, 2.00 USD an hour now",
        "node  type       market  zone        state                  seen",
    ]
    assert [" ".join(line.split()) for line in lines[6:8]] == [
        "i-1 g5.xlarge spot eu-west-1a step 120, leader 2 s",
        "i-2 g5.xlarge spot eu-west-1a training, Spot notice 60 s",
    ]
    assert lines[8:] == [f"line {number}" for number in range(3, 9)]


def test_narrow_terminal_cuts_nothing_off() -> None:
    """At 80 columns every phase, id, type, market and zone can be read, in the Region with the longest names, too."""
    # GIVEN
    ids = [f"i-0aca2a05cd0ef09e{number}" for number in range(3)]
    facts = {"instance_type": "g5.12xlarge", "market": "on-demand", "zone": "ap-southeast-1a", "seen_at": 940.0}
    nodes = tuple(replace(node(0, **facts), node=name) for name in ids)
    status = RunStatus(
        run="r",
        state="RUNNING",
        stage="training",
        phase="training",
        gpus=12,
        nodes=(replace(nodes[0], leads=True, step=123_456), replace(nodes[1], interruption="rebalance"), nodes[2]),
    )
    # WHEN
    lines = drawn(status, width=80, since={"training": 0.0})
    # THEN
    words = [word.rstrip(",") for line in lines for word in line.split()]
    assert not any("…" in word for word in words)
    assert [name for name in ids if name in words] == ids
    assert [words.count(word) for word in ("terminating", "g5.12xlarge", "on-demand", "ap-southeast-1a")] == [
        1,
        3,
        3,
        3,
    ]
    assert [word for word in ("123456", "leader", "notice") if word in words] == ["123456", "leader", "notice"]


def test_ended_run_waits_for_nothing_and_costs_nothing_an_hour() -> None:
    """An ended run shows neither remaining time nor an hourly price."""
    # GIVEN
    progress = TrainingProgress(step=400, steps=400, ranks=1, resets=1, eta_seconds=0.0)
    status = RunStatus(run="r", state="SUCCEEDED", progress=progress, spend=Spend(usd=1.5, usd_per_hour=2.0))
    # THEN
    assert drawn(status)[2:] == [
        "━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 100%",
        "step 400/400, 1 rank, 1 ring reset",
        "spent 1.50 USD",
    ]


def test_many_nodes_are_counted() -> None:
    """A cluster of 64 nodes is summed up, so that it does not push the rest off the screen."""
    # GIVEN
    status = RunStatus(run="r", state="RUNNING", phase="training", nodes=tuple(node(number) for number in range(64)))
    # THEN
    assert drawn(status)[-1] == f"and {64 - NODES_SHOWN} more"


def test_ended_run_is_no_longer_on_its_way() -> None:
    """An ended run shows its outcome in the place of the time, and marks no phase."""
    # THEN
    assert drawn(RunStatus(run="r", state="FAILED", phase="ended", gpus=1)) == [
        "run r, 1 GPU, FAILED",
        "queue > capacity > boot > image pull > joining > training > saving > terminating",
    ]
