"""The queue: first come, first served, over two fleets, whoever is stopped while waiting."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cdk_horovod.workflow.run_queue import LOOKS_MISSED
from horovod_client import Run
from horovod_client.run import STOPPED_ERROR
from horovod_node import contract
from support.faults.fleet_watch import Watch
from support.faults.lab import LEASE, ONE, RULES, TWO, Lab, receipt_so_far, until
from support.faults.run_queue import is_quiet, overtakings, queue_of, silence, taken, wait_of
from support.local_cloud.deployment import SCRIPTS, wait
from support.waiting import SECONDS, eventually

pytestmark = pytest.mark.local


@pytest.fixture(autouse=True)
def without_switches(lab: Lab) -> None:
    """Every look of a dead-man's switch is two new processes, for which this machine has better use here."""
    lab.put(switches_start=False)


def at_once(calls: Sequence[Callable[[], Any]]) -> None:
    """Make all *calls* at the same instant."""
    gate = threading.Barrier(len(calls))

    def make(call: Callable[[], Any]) -> None:
        gate.wait()
        call()

    threads = [threading.Thread(target=make, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def stands_in_line(lab: Lab, *runs: Run) -> bool:
    return until(SECONDS, lambda: {run.name for run in runs} <= set(lab.app.queue()))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "stops"), [(8, 2), (20, 5)])
def test_many_runs_at_once(lab: Lab, count: int, stops: int) -> None:
    """Of all runs started at the same instant, each gets a fleet for itself, in the order of the line."""
    # GIVEN runs of one GPU or two, and looks at the line that 20 executions can keep up on one machine
    fit, clients = lab.app.training.fit, lab.app.training
    lab.start(gpus=1, seconds=0).wait(poll_seconds=0.2)
    requests = [
        fit(
            SCRIPTS / "steps_only.py",
            gpus=2 if number % 3 == 0 else 1,
            hyperparameters={"seconds": 0.3},
            name=f"queue-{count}-{number:02}",
            dry_run=True,
        )
        for number in range(count)
    ]
    runs = [Run.from_id(request["name"], client=clients) for request in requests]
    with queue_of(lab, interval=3), Watch(lab) as watch:
        # WHEN they start at the same instant
        at_once([lambda request=request: lab.app.start_past_the_client(request) for request in requests])  # type: ignore[misc]
        assert until(SECONDS, lambda: len(lab.app.queue()) >= stops + 2)
        # AND some are stopped while they wait, one of which nobody cleans up after
        lab.switch("clean-up", on=False)
        forsaken, *others = lab.app.queue()[-stops:]
        Run.from_id(forsaken, client=clients).stop()
        lab.switch("clean-up", on=True)
        for name in others:
            Run.from_id(name, client=clients).stop()
        ended = {run.name: wait(run) for run in runs}
        silence(lab, forsaken)
        # THEN the fleets are at rest and nobody is left in line
        assert until(SECONDS, lambda: is_quiet(lab))
    stopped = {forsaken, *others}
    assert {name: status.error for name, status in ended.items() if not status.succeeded} == dict.fromkeys(
        stopped, STOPPED_ERROR
    )
    # AND at no time were two of them in one fleet
    assert watch.meetings(runs) == []
    assert watch.intruders(runs) == []
    receipts = {run.name: eventually(lambda run=run: receipt_so_far(run)) for run in runs}
    for fleet in lab.app.training.connection.fleets:
        held = sorted(
            (receipt["times"]["reserved_at"], receipt["times"]["terminated_at"])
            for receipt in receipts.values()
            if receipt["outcome"] == "succeeded" and receipt["fleet"] == fleet.id
        )
        assert all(before[1] < after[0] for before, after in itertools.pairwise(held)), held
    # AND none of them was overtaken
    waits = [wait_of(lab, run) for run in runs]
    assert overtakings(waits) == []
    # AND who was stopped has a receipt, too
    assert {name: (receipts[name]["written_by"], receipts[name]["error"]) for name in stopped} == {
        **dict.fromkeys(others, ("clean-up", STOPPED_ERROR)),
        forsaken: ("reaper", STOPPED_ERROR),
    }


@pytest.mark.slow
def test_large_run_is_not_starved(lab: Lab) -> None:
    """A run of two GPUs gets the large fleet before smaller runs that came later, however many there are."""
    # GIVEN a large run in line, and behind it small ones that could use the same fleet
    with taken(lab, ONE):
        with taken(lab, TWO):
            large = lab.start(gpus=2, seconds=0)
            assert stands_in_line(lab, large)
            small = [lab.start(gpus=1, seconds=0) for _ in range(3)]
            assert stands_in_line(lab, *small)
        # WHEN the large fleet is free
        # THEN it is the large run's turn first
        assert until(SECONDS, lambda: lab.holder(TWO) == large.name)
        assert {run.name for run in small} == set(lab.app.queue()) - {large.name}
    ended = [wait(run) for run in (large, *small)]
    assert [status.succeeded for status in ended] == [True] * 4
    assert overtakings([wait_of(lab, run) for run in (large, *small)]) == []


@pytest.mark.slow
def test_small_run_passes_a_large_one_for_a_fleet_that_cannot_hold_it(lab: Lab) -> None:
    """A run that waits for the large fleet does not keep others from the small one."""
    # GIVEN
    with taken(lab, TWO):
        large = lab.start(gpus=2, seconds=0)
        assert stands_in_line(lab, large)
        # WHEN
        small = lab.start(gpus=1, seconds=0)
        # THEN
        assert wait(small).succeeded
        assert lab.app.queue() == [large.name]
    assert wait(large).succeeded


@pytest.mark.slow
def test_queue_timeout_ends_the_wait(lab: Lab) -> None:
    """A run that waited for the queue timeout ends, says so, and is in nobody's way."""
    # GIVEN fleets that stay taken
    with taken(lab, ONE, TWO), queue_of(lab, timeout=3):
        # WHEN
        run = lab.start(gpus=1)
        ended = wait(run)
        # THEN
        assert (ended.error, ended.cause) == (
            contract.ERROR_QUEUE_TIMEOUT,
            "No fleet was free for this run in 3 s, the queue_timeout.",
        )
        assert lab.app.queue() == []
        receipt = run.receipt()
        assert (receipt["error"], "fleet" in receipt) == (contract.ERROR_QUEUE_TIMEOUT, False)


def test_stopped_waiter_is_passed_over(lab: Lab) -> None:
    """A run that was stopped in line, and that no layer takes out of it, keeps the next one for three looks at most."""
    # GIVEN two runs in line, and neither clean-up nor reaper
    for layer in RULES:
        lab.switch(layer, on=False)
    with taken(lab, ONE, TWO):
        first = lab.start(gpus=1)
        assert stands_in_line(lab, first)
        second = lab.start(gpus=1, seconds=0)
        assert stands_in_line(lab, first, second)
        # WHEN the first one is stopped, and the fleets are free
        first.stop()
    ended = wait(second)
    # THEN
    assert ended.succeeded
    stopped, served = wait_of(lab, first), wait_of(lab, second)
    last = stopped.looks[-1]
    kept = [look for look in served.looks[:-1] if look.asked > last.answered]
    assert len(kept) <= LOOKS_MISSED
    # AND it is still in line, for the reaper to find
    assert first.name in served.looks[-1].seen
    assert lab.app.queue() == [first.name]
    silence(lab, first.name)


def test_reaper_takes_a_silent_waiter_out_of_the_line(lab: Lab) -> None:
    """A run that was stopped in line, and whose event was lost, is taken out of it and gets its receipt."""
    # GIVEN a run that was stopped in line, unseen, and has not looked for long; and one that waits
    with taken(lab, ONE, TWO):
        for layer in RULES:
            lab.switch(layer, on=False)
        stopped = lab.start(gpus=1)
        waiting = lab.start(gpus=1, seconds=0)
        assert stands_in_line(lab, stopped, waiting)
        stopped.stop()
        silence(lab, stopped.name)
        # WHEN the reaper looks
        lab.switch("reaper", on=True)
        # THEN
        assert until(SECONDS, lambda: lab.app.queue() == [waiting.name])
        receipt = eventually(lambda: receipt_so_far(stopped))
        assert (receipt["written_by"], receipt["outcome"], receipt["error"], receipt["cause"]) == (
            "reaper",
            "failed",
            STOPPED_ERROR,
            "stopped by a user",
        )
        assert until(SECONDS, lambda: stopped.status().stage == contract.STAGE_FAILED)
    assert wait(waiting).succeeded


class Reservations:
    """A state machine that does nothing but the run's own state *Reserve a fleet*, for a fleet of its own."""

    FLEET = "of-a-test"

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stepfunctions = lab.cloud.client("stepfunctions")
        training = lab.app.training.connection.state_machine
        described = self._stepfunctions.describe_state_machine(stateMachineArn=training)
        deployed = json.loads(described["definition"])
        reserve = {key: value for key, value in deployed["States"]["Reserve a fleet"].items() if key != "Catch"}
        reserve.pop("Next")
        variables = {
            "run": "{% $states.context.Execution.Name %}",
            "run_id": "{% 'Training/' & $states.context.Execution.Name & '/20261126T110236Z' %}",
            "attempt": 1,
            "request": {contract.MAX_RUNTIME_SECONDS: 60, contract.MAX_RESTARTS: 0},
            "times": {},
            "eligible_fleets": [{**deployed["States"]["Check the request"]["Assign"]["fleets"][0], "id": self.FLEET}],
        }
        definition = {
            "QueryLanguage": "JSONata",
            "StartAt": "Begin",
            "States": {
                "Begin": {"Type": "Pass", "Assign": variables, "Next": "Reserve a fleet"},
                "Reserve a fleet": {**reserve, "End": True},
            },
        }
        self.arn = self._stepfunctions.create_state_machine(
            name="reservations",
            definition=json.dumps(definition),
            roleArn=described["roleArn"],
        )["stateMachineArn"]

    def __enter__(self) -> Reservations:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.put(None)
        self._stepfunctions.delete_state_machine(stateMachineArn=self.arn)

    def try_it(self, *runs: str) -> dict[str, str]:
        """Let *runs* reserve the fleet at the same instant; give each one's error, or ''."""
        at_once(
            [lambda run=run: self._stepfunctions.start_execution(stateMachineArn=self.arn, name=run) for run in runs]  # type: ignore[misc]
        )
        assert until(SECONDS, lambda: all(self._execution(run)["status"] != "RUNNING" for run in runs))
        return {run: self._execution(run).get("error", "") for run in runs}

    def execution_arn(self, run: str) -> str:
        return f"{self.arn.replace(':stateMachine:', ':execution:')}:{run}"

    def holder(self) -> str:
        """Tell which execution holds the fleet."""
        lease = self._lab.app.item(contract.lease_key(self.FLEET)) or {}
        return str(lease.get(contract.EXECUTION, {}).get("S", ""))

    def put(self, execution: str | None, *, expires_in: int = 0) -> None:
        """Let *execution* hold the fleet for that many seconds, or nobody."""
        partition, sort = contract.lease_key(self.FLEET)
        dynamodb, table = self._lab.cloud.client("dynamodb"), self._lab.app.training.connection.ledger_table
        key = {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}
        if execution is None:
            dynamodb.delete_item(TableName=table, Key=key)
            return
        lease = {
            contract.EXECUTION: {"S": execution},
            contract.EXPIRES_AT: {"N": str(int(time.time()) + expires_in)},
        }
        dynamodb.put_item(TableName=table, Item={**key, **lease})

    def _execution(self, run: str) -> dict[str, Any]:
        described: dict[str, Any] = self._stepfunctions.describe_execution(executionArn=self.execution_arn(run))
        return described


def test_two_reservations_at_once(lab: Lab) -> None:
    """Of executions that reserve a fleet at the same instant, one has it, and the others are told."""
    with Reservations(lab) as reservations:
        for turn in range(5):
            # GIVEN a free fleet
            reservations.put(None)
            # WHEN
            errors = reservations.try_it(*(f"turn-{turn}-{number}" for number in range(4)))
            # THEN
            winners = [run for run, error in errors.items() if not error]
            assert [reservations.execution_arn(run) for run in winners] == [reservations.holder()]
            assert sorted(errors.values()) == ["", *["DynamoDb.TransactionCanceledException"] * 3]


@pytest.mark.parametrize(
    ("run", "holder", "expires_in", "taken_over"),
    [
        pytest.param("refused", "another", LEASE, False, id="valid"),
        pytest.param("too-early", "another", -LEASE // 2, False, id="expired, and its nodes may still run"),
        pytest.param("abandoned", "another", -2 * LEASE, True, id="expired for longer than nodes tolerate"),
        pytest.param("again", "again", LEASE, True, id="its own, and the answer was lost"),
    ],
)
def test_reservation_of_a_lease_that_is_there(
    lab: Lab, run: str, holder: str, expires_in: int, taken_over: bool
) -> None:
    """A lease is taken over when it is the run's own, or when every node of its holder has taken itself out."""
    with Reservations(lab) as reservations:
        # GIVEN
        reservations.put(reservations.execution_arn(holder), expires_in=expires_in)
        # WHEN
        (error,) = reservations.try_it(run).values()
        # THEN
        assert error == ("" if taken_over else "DynamoDb.TransactionCanceledException")
        assert reservations.holder() == reservations.execution_arn(run if taken_over else holder)
