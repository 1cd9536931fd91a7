"""
Random faults, several at once, over two fleets and three runs: whatever comes together, the promises hold.

CDK_HOROVOD_RANDOM_SECONDS: how long it goes on; default 240. CDK_HOROVOD_RANDOM_SEED: repeats the sequences of an
earlier test, which printed it; what they meet depends on the clock as well.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from horovod_client import Run, RunEnded
from horovod_local import ApiFault, LocalCloudError, Refusal
from horovod_local.shared.faults import DROP, NODE, WORKFLOW
from horovod_node import contract
from support.faults.fleet_watch import Watch
from support.faults.lab import LEASE, ONE, TWO, Lab, receipt_so_far, until
from support.faults.run_queue import is_quiet, silence

pytestmark = [pytest.mark.local, pytest.mark.slow]

RUNS = 3
"""In one sequence."""
STEPS = 12
"""Of one sequence."""
ALONE = LEASE + 20
"""Seconds that an instance may run in a fleet that nobody holds: what its switch tolerates, and what it then does."""
PATIENCE = 180
"""Seconds in which everything ends when no fault is in force any more."""

CALLS = (
    ("dynamodb", "*", WORKFLOW),
    ("dynamodb", "*", NODE),
    ("dynamodb", "TransactWriteItems", WORKFLOW),
    ("autoscaling", "UpdateAutoScalingGroup", WORKFLOW),
    ("autoscaling", "SetDesiredCapacity", WORKFLOW),
    ("autoscaling", "TerminateInstanceInAutoScalingGroup", WORKFLOW),
    ("autoscaling", "Describe*", WORKFLOW),
    ("autoscaling", "TerminateInstanceInAutoScalingGroup", NODE),
    ("stepfunctions", "SendTask*", NODE),
    ("stepfunctions", "DescribeExecution", WORKFLOW),
    ("s3", "*", NODE),
    ("s3", "*", WORKFLOW),
)
"""What can fail: service, operation and caller."""
ONCE = ("s3", "*", WORKFLOW)
"""This one fails for one request: the receipt of a stopped run is tried three times in four seconds, then given up."""
WAYS: tuple[dict[str, Any], ...] = (
    {"error": "ServiceUnavailable"},
    {"error": "ThrottlingException", "status": 400},
    {"error": DROP},
    {"error": None, "delay_seconds": 2},
)
"""How it fails."""
CONDITIONS: tuple[dict[str, Any], ...] = (
    {},
    {"launch_delay_seconds": 3},
    {"launch_delay_seconds": 25},
    {"termination_delay_seconds": 3},
    {"termination_delay_seconds": 8},
    {"agents_start": False},
    {"refused": (Refusal(market="spot"),)},
    {"launch_delay_seconds": 0, "termination_delay_seconds": 0, "agents_start": True, "refused": ()},
)
"""What else there is, until something else is put in its place; the last of them ends all the others."""
LAYERS = ("clean-up", "reaper", "switches")
REQUEST = st.tuples(st.sampled_from((1, 2)), st.sampled_from((0, 3, 8)))
"""GPUs, and seconds of training."""
AFTER = st.sampled_from((0, 0.5, 2, 4))
"""Seconds from one thing to the next."""
FLEETS = st.sampled_from((ONE, TWO))
WHICH = st.integers(min_value=0, max_value=RUNS - 1)
NODE_OF_TWO = st.integers(min_value=0, max_value=1)

SETTINGS = settings(
    # Of ten and more, Hypothesis would begin with as many as it can that do nearly nothing.
    max_examples=9,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    # Shrinking would take hours, and what fails once in a while would not shrink.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass(kw_only=True)
class Trial:
    """
    All sequences of one test.

    Args:
        lab: Where.
        ends_at: When no more is done, by the monotonic clock.
    """

    lab: Lab
    ends_at: float
    began_at: float = field(default_factory=time.monotonic)
    sequences: int = 0
    failure: Exception | None = None

    @property
    def is_over(self) -> bool:
        return self.failure is not None or time.monotonic() > self.ends_at

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self.began_at:6.1f} s  {what}")


class RandomFaults(RuleBasedStateMachine):
    """
    One sequence: runs are started, and suffer.

    What Hypothesis draws depends on nothing that the cloud does, so that a seed repeats it: a rule for which there is
    nothing to do does nothing. So do all when the trial is over.
    """

    def __init__(self, *, trial: Trial) -> None:
        super().__init__()
        self.trial = trial
        self.lab = trial.lab
        self.started = 0
        self.runs: list[Run] = []
        self.lost: set[str] = set()
        self.unrecorded: set[str] = set()
        self.calm_at = 0.0
        self.watching = contextlib.ExitStack()
        self.watch: Watch | None = None
        if not trial.is_over:
            trial.sequences += 1
            trial.say(f"sequence {trial.sequences}")
            self.lab.heal()
            self.watch = self.watching.enter_context(Watch(self.lab))

    @initialize(runs=st.lists(REQUEST, min_size=2, max_size=RUNS), condition=st.sampled_from(CONDITIONS))
    def begin(self, runs: list[tuple[int, int]], condition: dict[str, Any]) -> None:
        self.put_conditions(condition, after=0)
        for run in runs:
            self.start_a_run(run, after=0)

    @precondition(lambda self: self.started < RUNS)
    @rule(request=REQUEST, after=AFTER)
    def start_a_run(self, request: tuple[int, int], after: float) -> None:
        gpus, seconds = request
        if self._comes_to(f"run {self.started} starts with {gpus} GPUs for {seconds} s", after=after):
            self.runs.append(self.lab.start(gpus=gpus, seconds=seconds))
        self.started += 1

    @rule(which=WHICH, after=AFTER)
    def stop_a_run(self, which: int, after: float) -> None:
        if self._comes_to(f"run {which} is stopped", after=after):
            for run in self.runs[which : which + 1]:
                if "clean-up" in self.lost and not self._has_come_to_the_line(run):
                    self.unrecorded.add(run.name)
                with contextlib.suppress(RunEnded):
                    run.stop()

    @rule(which=WHICH, node=NODE_OF_TWO, after=AFTER)
    def kill_an_agent(self, which: int, node: int, after: float) -> None:
        if self._comes_to(f"agent {node} of run {which} is killed", after=after):
            for run in self.runs[which : which + 1]:
                for instance in self.lab.nodes_of(run)[node : node + 1]:
                    _signal(instance.pid, signal.SIGKILL)

    @rule(which=WHICH, after=AFTER)
    def freeze_the_leader(self, which: int, after: float) -> None:
        if self._comes_to(f"the leader's agent of run {which} stands still", after=after):
            for run in self.runs[which : which + 1]:
                leader = self.lab.app.leader_of(run)
                for instance in self.lab.nodes_of(run):
                    if instance.instance_id == leader:
                        _signal(instance.pid, signal.SIGSTOP)

    @rule(fleet=FLEETS, which=NODE_OF_TWO, after=AFTER)
    def lose_an_instance(self, fleet: int, which: int, after: float) -> None:
        if self._comes_to(f"instance {which} of fleet {fleet} is lost", after=after):
            for instance in self.lab.instances_in(fleet)[which : which + 1]:
                with contextlib.suppress(LocalCloudError):
                    self.lab.cloud.lose(instance)

    @rule(call=st.sampled_from(CALLS), way=st.sampled_from(WAYS), seconds=st.sampled_from((1, 3, 6)), after=AFTER)
    def break_an_api(self, call: tuple[str, str, str], way: dict[str, Any], seconds: int, after: float) -> None:
        service, operation, caller = call
        if self._comes_to(f"{service} {operation} of {caller}: {way} for {seconds} s", after=after):
            times = 1 if call == ONCE else None
            fault = ApiFault(service=service, operation=operation, caller=caller, seconds=seconds, times=times, **way)
            self.lab.put(failing=(fault,))
            self.calm_at = time.monotonic() + seconds

    @rule(condition=st.sampled_from(CONDITIONS), after=AFTER)
    def put_conditions(self, condition: dict[str, Any], after: float) -> None:
        if self._comes_to(f"conditions: {condition}", after=after):
            self._put(**condition)

    @rule(layer=st.sampled_from(LAYERS), after=AFTER)
    def lose_a_layer(self, layer: str, after: float) -> None:
        if self._comes_to(f"{layer} off", after=after):
            lost = self.lost | {layer}
            # An instance that was started without a switch never gets one: the reaper must find it, then.
            if not {"reaper", "switches"} <= lost:
                self.lost = lost
                if layer == "switches":
                    self._put(switches_start=False)
                else:
                    self.lab.switch(layer, on=False)

    @invariant()
    def fleets_are_not_shared(self) -> None:
        """No two runs have nodes in one fleet."""
        if self.watch is not None:
            assert self.watch.meetings(self.runs) == []

    @invariant()
    def nothing_is_left_alone(self) -> None:
        """No instance runs for long in a fleet that nobody holds."""
        if self.watch is not None:
            now = time.monotonic()
            alone = {each: now - max(since, self.calm_at) for each, since in self.watch.left_alone().items()}
            assert {each: seconds for each, seconds in alone.items() if seconds > ALONE} == {}

    def teardown(self) -> None:
        """End all faults: then every run ends, and leaves a record and nothing else."""
        failure = sys.exception()
        try:
            with self.watching:
                if self.watch is not None:
                    self._settle(self.watch)
        except Exception as error:
            failure = failure if isinstance(failure, Exception) else error
        if isinstance(failure, Exception):
            self.trial.failure = self.trial.failure or failure
        # Hypothesis tries a sequence that failed once more. That takes its time, and need not fail again.
        if self.trial.failure is not None:
            raise self.trial.failure

    def _settle(self, watch: Watch) -> None:
        self.trial.say("all faults end")
        self.lab.heal()
        assert until(PATIENCE, lambda: all(run.status().ended for run in self.runs)), self._seen()
        silence(self.lab, *self.lab.app.queue())
        assert until(PATIENCE, lambda: is_quiet(self.lab)), self._seen()
        assert watch.meetings(self.runs) == []
        recorded = [run for run in self.runs if run.name not in self.unrecorded]
        assert until(PATIENCE, lambda: all(receipt_so_far(run) for run in recorded)), self._seen()
        for run in recorded:
            status, receipt = run.status(), run.receipt()
            self.trial.say(f"{run.name}: {status.state} {status.error}, {receipt['outcome']}")
            assert receipt["outcome"] == "succeeded" or not status.succeeded
            if receipt["outcome"] == "succeeded":
                assert "model.txt" in self.lab.app.model(run)
            else:
                assert (receipt["outcome"], bool(receipt["error"]), bool(receipt["cause"])) == ("failed", True, True)

    def _seen(self) -> dict[str, Any]:
        """Tell what a failed expectation needs to be understood."""
        return {
            "line": self.lab.app.queue(),
            "leases": [self.lab.app.lease(fleet) for fleet in (ONE, TWO)],
            "instances": [self.lab.group_of(fleet)["Instances"] for fleet in (ONE, TWO)],
            "runs": {
                run.name: (run.status().state, self.lab.state_of(run), receipt_so_far(run).get("written_by"))
                for run in self.runs
            },
        }

    def _has_come_to_the_line(self, run: Run) -> bool:
        """Whether more tells of *run* than its execution's events: a place in line, a fleet, or a receipt."""
        reserved = contract.FLEET in (self.lab.app.item(contract.run_key(run.run_id)) or {})
        return reserved or run.name in self.lab.app.queue() or bool(receipt_so_far(run))

    def _comes_to(self, what: str, *, after: float) -> bool:
        """Let *after* seconds pass and tell what happens now; False, and at once, when the trial is over."""
        if self.trial.is_over:
            return False
        time.sleep(after)
        self.trial.say(what)
        return True

    def _put(self, **faults: Any) -> None:
        """Put faults in force, beside that of an API, which begins anew unless it is over."""
        if time.monotonic() > self.calm_at:
            faults["failing"] = ()
        self.lab.put(**faults)
        self.calm_at = max((time.monotonic() + (fault.seconds or 0) for fault in self.lab.faults.failing), default=0.0)


def _signal(pid: int | None, number: int) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.mark.timeout(0)
def test_random_faults(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever goes wrong, in whatever order: runs never meet, nothing stays, every run leaves its record."""
    seconds = float(os.environ.get("CDK_HOROVOD_RANDOM_SECONDS", "240"))
    first = int(os.environ.get("CDK_HOROVOD_RANDOM_SEED") or secrets.randbelow(2**32))
    trial = Trial(lab=lab, ends_at=time.monotonic() + seconds)
    for number in itertools.count(first):
        if trial.is_over:
            break
        with capsys.disabled():
            print(f"\nrandom faults: CDK_HOROVOD_RANDOM_SEED={number}")

        @seed(number)
        def sequence() -> RandomFaults:
            return RandomFaults(trial=trial)

        run: Any = run_state_machine_as_test
        run(sequence, settings=SETTINGS)
    assert trial.sequences > 0
