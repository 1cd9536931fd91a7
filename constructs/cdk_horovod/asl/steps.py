"""States in order, for parts of a workflow that need one state with one engine, several with another, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import aws_stepfunctions as sfn

from cdk_horovod.asl.states import jsonata


@dataclass(frozen=True, kw_only=True)
class Fork:
    """
    A step of which a run takes one branch: the first whose condition is true, or none.

    Args:
        choice: The state that chooses.
        branches: The steps of each branch, which may be empty, by the JSONata of its condition.
    """

    choice: sfn.Choice
    branches: Mapping[str, Steps]

    @property
    def start_state(self) -> sfn.State:
        return self.choice

    def add_catch(self, handler: sfn.IChainable, *, errors: Sequence[str] | None = None, **catch: Any) -> Fork:
        """Catch errors of every step of every branch."""
        for step in self._steps:
            step.add_catch(handler, errors=errors, **catch)
        return self

    def next(self, then: sfn.IChainable) -> Fork:
        """Let *then* follow every branch, and the choice of none."""
        for condition, steps in self.branches.items():
            self.choice.when(sfn.Condition.jsonata(jsonata(condition)), _linked(steps, then=then))
        self.choice.otherwise(then)
        return self

    @property
    def _steps(self) -> list[Step]:
        return [step for steps in self.branches.values() for step in steps]


Step = sfn.TaskStateBase | sfn.Map | sfn.Parallel | Fork
"""A part of a workflow whose errors can be caught."""
Steps = tuple[Step, ...]


def in_order(
    steps: Steps, *, then: sfn.IChainable, caught: sfn.IChainable | None = None, **catch: Any
) -> sfn.IChainable:
    """
    Link *steps*, and return the first state, or *then* if there is none.

    Args:
        steps: The steps.
        then: Follows the last one.
        caught: Follows an error of any of them. Default: *then*.
        catch: Further arguments of `add_catch`, such as `assign` and `outputs`.
    """
    following = then
    for step in reversed(steps):
        step.add_catch(then if caught is None else caught, **catch)
        following = _linked((step,), then=following)
    return following


def _linked(steps: Steps, *, then: sfn.IChainable) -> sfn.IChainable:
    following = then
    for step in reversed(steps):
        step.next(following)
        following = step.start_state
    return following
