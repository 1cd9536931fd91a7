"""
Faults of an Auto Scaling group, all documented: late launches, instances that stay, a policy that changes.

A person who does not know of the run causes most of them; a run itself neither protects its nodes nor puts them on
standby.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from horovod_client import Run
from horovod_client.run import STOPPED_ERROR
from horovod_node import contract
from support.faults.expectations import BY_EVENT, BY_OUTAGE, BY_SILENCE, SUCCESS, Bound, Expectation, FaultCase
from support.faults.lab import TWO, Lab, until
from support.faults.phases import LONG, Phase

LATE = 8
"""Seconds that EC2 takes to answer a launch after its run was stopped: less than a lease holds."""


def _answer_late(lab: Lab, run: Run) -> None:
    """Stop a run whose launches are unanswered, and let EC2 answer: until then the fleet may not be given away."""
    run.stop()
    freed = until(LATE, lambda: lab.holder(TWO) == "")
    assert not freed, "the fleet was free while launches were unanswered"
    lab.put(launch_answer_seconds=0.0, launch_delay_seconds=0.0)


def _launches_unanswered(lab: Lab) -> Any:
    lab.put(launch_answer_seconds=float(LONG))
    return nullcontext()


def _keep_instances(operation: str, **arguments: Any) -> Callable[[Lab, Run], None]:
    """Let a person do something to all of the run's nodes."""

    def act(lab: Lab, run: Run) -> None:
        group = lab.group_of(TWO)["AutoScalingGroupName"]
        nodes = [node.instance_id for node in lab.nodes_of(run)]
        getattr(lab.cloud.client("autoscaling"), operation)(AutoScalingGroupName=group, InstanceIds=nodes, **arguments)

    return act


def _retain(lab: Lab, _run: Run) -> None:
    lab.put(terminations_retained=True)


def _all_on_demand(lab: Lab, _run: Run) -> None:
    """Change the group's market policy, as a deployment of another template would."""
    group = lab.group_of(TWO)
    policy = group["MixedInstancesPolicy"]
    template = policy["LaunchTemplate"]["LaunchTemplateSpecification"]
    specification = {name: template[name] for name in ("LaunchTemplateId", "Version")}
    lab.cloud.client("autoscaling").update_auto_scaling_group(
        AutoScalingGroupName=group["AutoScalingGroupName"],
        MixedInstancesPolicy={
            "LaunchTemplate": {
                "LaunchTemplateSpecification": specification,
                "Overrides": policy["LaunchTemplate"]["Overrides"],
            },
            "InstancesDistribution": {"OnDemandBaseCapacity": 2, "OnDemandPercentageAboveBaseCapacity": 100},
        },
    )


def _in_training(*outcomes: str, bound: Bound) -> Callable[[Phase], Expectation | None]:
    return lambda phase: Expectation(outcomes=outcomes, bound=bound) if phase.name == "training" else None


GROUP_CASES = (
    FaultCase(
        name="launches answered after StopExecution",
        act=_answer_late,
        expect=lambda phase: (
            Expectation(
                outcomes=(STOPPED_ERROR,), bound=Bound(formula="EC2's answer + event", seconds=BY_EVENT.seconds + LATE)
            )
            if phase.name == "starting"
            else None
        ),
        before=_launches_unanswered,
    ),
    FaultCase(
        name="nodes protected from scale-in by a person",
        act=_keep_instances("set_instance_protection", ProtectedFromScaleIn=True),
        expect=_in_training(SUCCESS, bound=BY_OUTAGE),
        ends_by_itself=True,
    ),
    FaultCase(
        name="nodes put on standby by a person",
        act=_keep_instances("enter_standby", ShouldDecrementDesiredCapacity=True),
        expect=_in_training(SUCCESS, bound=BY_OUTAGE),
        ends_by_itself=True,
    ),
    FaultCase(
        name="terminations retained by a lifecycle policy",
        act=_retain,
        expect=_in_training(SUCCESS, bound=BY_OUTAGE),
        ends_by_itself=True,
    ),
    FaultCase(
        name="market policy changed in mid-run",
        act=_all_on_demand,
        # The Spot node is replaced by an On-Demand one, which nothing in the run asked for.
        expect=_in_training(contract.ERROR_NODE_FAILED, contract.ERROR_TRAINING_FAILED, bound=BY_SILENCE),
    ),
)
