"""Samples the fleets while a test goes on; afterwards it reports what must never have been seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from horovod_client import Run
from horovod_node import contract
from support.faults.lab import ONE, TWO, Lab

PERIOD = 0.6
"""Seconds between two looks."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """
    One look at one fleet.

    Args:
        at: Time of the look, by the monotonic clock.
        fleet: Which one.
        holders: Who held it just before and just after; '' is nobody.
        instances: Lifecycle states of its instances by their ids.
    """

    at: float
    fleet: int
    holders: tuple[str, str]
    instances: dict[str, str]


class Watch:
    """
    Takes samples of both fleets, in a thread of its own, while the `with` block lasts.

    A look that fails ends the watching; leaving the block raises its error.
    """

    def __init__(self, lab: Lab) -> None:
        self.samples: list[Sample] = []
        self._lab = lab
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)
        self._alone: dict[str, float] = {}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def meetings(self, runs: Sequence[Run]) -> list[tuple[int, set[str]]]:
        """List the samples in which nodes of more than one of *runs* were in one fleet."""
        run_of = self._nodes(runs)
        found = [
            (sample.fleet, {run_of[instance] for instance in sample.instances if instance in run_of})
            for sample in list(self.samples)
        ]
        return [(fleet, together) for fleet, together in found if len(together) > 1]

    def intruders(self, runs: Sequence[Run]) -> list[tuple[int, str, str]]:
        """List the samples in which a fleet that one of *runs* held had a node of another: fleet, holder, the other."""
        run_of, names = self._nodes(runs), {run.name for run in runs}
        return [
            (sample.fleet, sample.holders[0], run_of[instance])
            for sample in list(self.samples)
            if sample.holders[0] == sample.holders[1] and sample.holders[0] in names
            for instance in sample.instances
            if instance in run_of and run_of[instance] != sample.holders[0]
        ]

    def left_alone(self) -> dict[str, float]:
        """Tell since when each instance runs in a fleet that nobody holds, by the monotonic clock."""
        return dict(self._alone)

    def _nodes(self, runs: Sequence[Run]) -> dict[str, str]:
        return {
            item[contract.NODE]["S"]: run.name for run in runs for item in self._lab.items(run, contract.NODE_PREFIX)
        }

    def _look_on(self) -> None:
        while not self._over.wait(PERIOD):
            try:
                self._look()
            except Exception as error:
                self._error = error
                return

    def _look(self) -> None:
        alone: dict[str, float] = {}
        for fleet in (ONE, TWO):
            before = self._lab.holder(fleet)
            group = self._lab.group_of(fleet)
            sample = Sample(
                at=time.monotonic(),
                fleet=fleet,
                holders=(before, self._lab.holder(fleet)),
                instances={each["InstanceId"]: each["LifecycleState"] for each in group["Instances"]},
            )
            self.samples.append(sample)
            if not any(sample.holders):
                for instance, state in sample.instances.items():
                    if state == "InService":
                        alone[instance] = self._alone.get(instance, sample.at)
        self._alone = alone
