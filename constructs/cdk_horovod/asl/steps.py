"""States in order, for parts of a workflow that need one state with one engine, several with another, or none."""

from __future__ import annotations

from typing import Any

from aws_cdk import aws_stepfunctions as sfn

Step = sfn.TaskStateBase | sfn.Map | sfn.Parallel
"""A state whose errors can be caught."""
Steps = tuple[Step, ...]


def in_order(
    steps: Steps, *, then: sfn.IChainable, caught: sfn.IChainable | None = None, **catch: Any
) -> sfn.IChainable:
    """
    Link *steps*, and return the first one, or *then* if there is none.

    Args:
        steps: The states.
        then: Follows the last one.
        caught: Follows an error of any of them. Default: *then*.
        catch: Further arguments of `add_catch`, such as `assign` and `outputs`.
    """
    following = then
    for step in reversed(steps):
        step.add_catch(then if caught is None else caught, **catch).next(following)
        following = step
    return following
