"""The states that scale an Auto Scaling group, and look at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.workflow.states import call_aws, jsonata
from horovod_node import contract

UNTOLD = "unknown"
"""Value of the tags of a run whose request does not say for whom or what it is."""


class GroupStates:
    """
    States that act on the Auto Scaling group in `$fleet.group`.

    Args:
        arns: Of the groups, for the permissions.
        blocks: Whether they are of Capacity Blocks, which have no policy and count instances.
    """

    def __init__(self, *, arns: Sequence[str], blocks: bool) -> None:
        self._arns = arns
        self._blocks = blocks

    def _capacity(self, gpus: str) -> str:
        """Write *gpus*, an expression, in the group's own unit."""
        return jsonata(f"$ceil({gpus} / $fleet.rest.unit)" if self._blocks else gpus)

    def _policy(self, expression: str) -> dict[str, Any]:
        return {} if self._blocks else {"MixedInstancesPolicy": jsonata(expression)}

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> tuple[sfn.TaskStateBase, ...]:
        return (
            # Balancing zones terminates healthy nodes in mid-run; no CloudFormation property turns it off.
            self._call(scope, "Suspend rebalancing", "suspendProcesses", ScalingProcesses=["AZRebalance"]),
            self._call(
                scope,
                "Start nodes",
                "updateAutoScalingGroup",
                assign=assign,
                retries=6,
                DesiredCapacity=self._capacity("$request.gpus"),
                VpcZoneIdentifier=jsonata("$search.attempt.subnets"),
                **self._policy("$search.attempt.policy"),
            ),
        )

    def tag(self, scope: Construct) -> sfn.TaskStateBase:
        """A group hands its tags on to the instances that it launches; all three are written, so that none is old."""

        def given(field: str) -> str:
            value = f"$request.{field}"
            return jsonata(f"$exists({value}) and {value} != '' ? {value} : '{UNTOLD}'")

        tags = {
            contract.RUN_TAG: jsonata("$run"),
            contract.OWNER_TAG: given(contract.OWNER),
            contract.PROJECT_TAG: given(contract.PROJECT),
        }
        return self._call(
            scope,
            "Tag the fleet",
            "createOrUpdateTags",
            named={
                "Tags": [
                    {
                        "ResourceId": jsonata("$fleet.group"),
                        "ResourceType": "auto-scaling-group",
                        "Key": key,
                        "Value": value,
                        "PropagateAtLaunch": True,
                    }
                    for key, value in tags.items()
                ]
            },
            retries=1,
        )

    def look(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> sfn.TaskStateBase:
        there = """$sum([0, $map(
          $filter($states.result.AutoScalingGroups.Instances, function($instance) {
            $not($contains($instance.LifecycleState, 'Terminat'))
          }),
          function($instance) {
            $exists($instance.WeightedCapacity) ? $number($instance.WeightedCapacity) : $fleet.rest.unit
          }
        )])"""
        return self._describe(scope, "See what is there", assign=judged(there))

    def explain(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> sfn.TaskStateBase:
        words = """$filter($states.result.Activities, function($activity) {
          $activity.StatusCode in ['Failed', 'Cancelled'] and $exists($activity.StatusMessage)
          and $toMillis($string($activity.StartTime)) >= 1000 * $search.since
        }).StatusMessage"""
        return self._call(
            scope,
            "Find out why",
            "describeScalingActivities",
            arns=["*"],  # Auto Scaling's Describe actions know no resources
            assign=judged(words),
            MaxRecords=50,
        )

    def replace(self, scope: Construct) -> sfn.TaskStateBase:
        """A protection from scale-in does not keep an instance from being terminated by its name."""
        return self._call(
            scope,
            "Replace the leader",
            "terminateInstanceInAutoScalingGroup",
            named={"InstanceId": jsonata("$gone")},
            retries=1,
            ShouldDecrementDesiredCapacity=False,
        )

    def restore(self, scope: Construct) -> sfn.TaskStateBase:
        return self._call(
            scope,
            "Restore the group",
            "updateAutoScalingGroup",
            retries=1,
            VpcZoneIdentifier=jsonata("$fleet.rest.subnets"),
            **self._policy("$fleet.rest.policy"),
        )

    def protect(self, scope: Construct) -> sfn.TaskStateBase:
        leader = [jsonata("$ring.leader.node")]
        return self._call(
            scope,
            "Protect the leader",
            "setInstanceProtection",
            assign={"protected": leader},
            InstanceIds=leader,
            ProtectedFromScaleIn=True,
        )

    def release(self, scope: Construct, *, assign: Mapping[str, Any]) -> sfn.TaskStateBase:
        return self._call(
            scope,
            "Release the workers",
            "updateAutoScalingGroup",
            assign=assign,
            DesiredCapacity=self._capacity("$ring.leader.gpus"),
        )

    def unprotect(self, scope: Construct) -> sfn.TaskStateBase:
        """A protected instance survives a capacity of 0."""
        return self._call(
            scope,
            "Lift the protection",
            "setInstanceProtection",
            InstanceIds=jsonata("$protected"),
            ProtectedFromScaleIn=False,
        )

    def terminate(self, scope: Construct) -> sfn.TaskStateBase:
        return self._call(scope, "Terminate", "updateAutoScalingGroup", DesiredCapacity=0)

    def confirm(self, scope: Construct) -> sfn.TaskStateBase:
        """
        Look at the group itself, which knows an instance from the launch to its very end.

        A desired capacity counts like an instance: what is asked for and not yet there will come.
        """
        instances = "$states.result.AutoScalingGroups.Instances"
        return self._describe(
            scope,
            "Confirm that nothing runs",
            assign={
                "running": jsonata(
                    f"$max([$count({instances}), $sum($states.result.AutoScalingGroups.DesiredCapacity)])"
                ),
                # Auto Scaling takes 50 instances a call; the loop around this lifts the others in its next turns.
                "protected": jsonata(
                    f"[$filter({instances}, function($instance) {{ $instance.ProtectedFromScaleIn }})"
                    ".InstanceId[[0..49]]]"
                ),
            },
        )

    def _describe(self, scope: Construct, name: str, *, assign: Mapping[str, Any]) -> sfn.TaskStateBase:
        return self._call(
            scope,
            name,
            "describeAutoScalingGroups",
            arns=["*"],  # Auto Scaling's Describe actions know no resources
            named={"AutoScalingGroupNames": [jsonata("$fleet.group")]},
            assign=assign,
        )

    def _call(
        self,
        scope: Construct,
        name: str,
        action: str,
        *,
        arns: Sequence[str] | None = None,
        named: Mapping[str, Any] | None = None,
        assign: Mapping[str, Any] | None = None,
        retries: int = 3,
        **arguments: object,
    ) -> sfn.TaskStateBase:
        return call_aws(
            scope,
            name,
            service="autoscaling",
            action=action,
            parameters={**(named or {"AutoScalingGroupName": jsonata("$fleet.group")}), **arguments},
            resources=self._arns if arns is None else arns,
            assign=assign,
            retries=retries,
        )
