"""The states that scale and describe an Auto Scaling group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import NO_OUTPUT, REDRIVEN, call_aws, jsonata
from cdk_horovod.asl.steps import Steps
from horovod_node import contract

UNTOLD = "unknown"
"""Value of the owner and project tags of a run whose request has neither."""


def fenced(value: str) -> str:
    """
    Return the JSONata of *value*, the name of what a call changes.

    The state fails if the lease was not checked since a redrive; its Catch leads to the check.
    """
    return jsonata(
        f"$held = {REDRIVEN} ? {value} : $error('The lease was not held since this execution was redriven.')"
    )


def run_tags() -> dict[str, str]:
    """Return the tags of a run's nodes: all three, each with the expression of its value."""

    def given(field: str) -> str:
        value = f"$request.{field}"
        return jsonata(f"$exists({value}) and {value} != '' ? {value} : '{UNTOLD}'")

    return {
        contract.RUN_TAG: jsonata("$run"),
        contract.OWNER_TAG: given(contract.OWNER),
        contract.PROJECT_TAG: given(contract.PROJECT),
    }


FENCED_GROUP = fenced("$fleet.group")
"""Name of the group."""

AUTO_SCALING_READS: Final = ("autoscaling:DescribeAutoScalingGroups", "ec2:DescribeSpotPriceHistory")
"""Actions with which the instances of a group are seen booting, and what they cost as Spot."""

ENDED_AT_ONCE = 10
"""Most instances that one iteration terminates by id; later iterations terminate the others."""


class GroupStates:
    """
    States that act on the Auto Scaling group in `$fleet.group`.

    Args:
        arns: ARNs of the groups, for the permissions.
        blocks: Whether the fleets are Capacity Blocks, whose groups have no mixed-instances policy and count instances.
    """

    def __init__(self, *, arns: Sequence[str], blocks: bool) -> None:
        self._arns = arns
        self._blocks = blocks

    def _capacity(self, gpus: str) -> str:
        """Convert *gpus*, an expression, to the group's unit of capacity."""
        return jsonata(f"$ceil({gpus} / $fleet.rest.unit)" if self._blocks else gpus)

    def _launches(self, place: str, *, fits: str | None = None) -> dict[str, Any]:
        """
        Return the arguments for what the group launches: complete ones, because an update replaces the policy.

        Args:
            place: Expression of the object that holds them: an attempt, or the group at rest.
            fits: Expression of the most GPUs that one node may have. Default: every type is included.
        """
        if self._blocks:
            return {"LaunchTemplate": jsonata(f"{place}.template")}
        policy = f"{place}.policy"
        if fits is not None:
            template = f"{policy}.LaunchTemplate"
            policy = f"""$merge([{policy}, {{'LaunchTemplate': $merge([{template}, {{
              'Overrides': [$filter({template}.Overrides, function($type) {{
                $number($type.WeightedCapacity) <= {fits}
              }})]
            }}])}}])"""
        return {"MixedInstancesPolicy": jsonata(policy)}

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> Steps:
        """
        Leave out types with more GPUs than the run asks for: a run of 2 GPUs never pays for a node of 4.

        Every fleet and every attempt has a type with `gpu_step` GPUs, and a run asks for a multiple of that, so at
        least one type remains.
        """
        return (
            # AZRebalance terminates healthy nodes during a run; no CloudFormation property disables it.
            self._call(scope, "Suspend rebalancing", "suspendProcesses", ScalingProcesses=["AZRebalance"]),
            self._call(
                scope,
                "Start nodes",
                "updateAutoScalingGroup",
                assign=assign,
                retries=6,
                DesiredCapacity=self._capacity("$request.gpus"),
                VpcZoneIdentifier=jsonata("$search.attempt.subnets"),
                **self._launches("$search.attempt", fits="$request.gpus"),
            ),
        )

    def tag(self, scope: Construct) -> Steps:
        """Set the group's tags, which it propagates to new instances; all three, so that none is of an earlier run."""
        return (
            self._call(
                scope,
                "Tag the fleet",
                "createOrUpdateTags",
                named={
                    "Tags": [
                        {
                            "ResourceId": FENCED_GROUP,
                            "ResourceType": "auto-scaling-group",
                            "Key": key,
                            "Value": value,
                            "PropagateAtLaunch": True,
                        }
                        for key, value in run_tags().items()
                    ]
                },
                retries=1,
            ),
        )

    def look(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]]) -> Steps:
        there = """$sum([0, $map(
          $filter($states.result.AutoScalingGroups.Instances, function($instance) {
            $not($contains($instance.LifecycleState, 'Terminat'))
          }),
          function($instance) {
            $exists($instance.WeightedCapacity) ? $number($instance.WeightedCapacity) : $fleet.rest.unit
          }
        )])"""
        return (self._describe(scope, "See what is there", assign=judged(there, "false")),)

    def explain(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> Steps:
        words = """$filter($states.result.Activities, function($activity) {
          $activity.StatusCode in ['Failed', 'Cancelled'] and $exists($activity.StatusMessage)
          and $toMillis($string($activity.StartTime)) >= 1000 * $search.since
        }).StatusMessage"""
        return (self._read_activities(scope, "Find out why", assign=judged(words)),)

    def replace(self, scope: Construct) -> Steps:
        """Terminate it by id. The group launches another one, because its desired capacity does not change."""
        return (
            self._call(
                scope,
                "Replace the leader",
                "terminateInstanceInAutoScalingGroup",
                named={"InstanceId": jsonata("$lost_leader")},
                retries=1,
                ShouldDecrementDesiredCapacity=False,
            ),
        )

    def restore(self, scope: Construct) -> Steps:
        return (
            self._call(
                scope,
                "Restore the group",
                "updateAutoScalingGroup",
                retries=1,
                VpcZoneIdentifier=jsonata("$fleet.rest.subnets"),
                **self._launches("$fleet.rest"),
            ),
        )

    def terminate(self, scope: Construct) -> Steps:
        """
        Set the desired capacity only, which needs no permission to launch anything.

        For `UpdateAutoScalingGroup` Auto Scaling may require `ec2:RunInstances` and `iam:PassRole` (its guide, "Control
        Amazon EC2 launch template usage in Auto Scaling groups"), which clean-up and reaper do not have.
        """
        return (self._call(scope, "Terminate", "setDesiredCapacity", DesiredCapacity=0, HonorCooldown=False),)

    def confirm(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]] | None = None) -> Steps:
        """
        Count launches in progress, then describe the group, which lists an instance until it has terminated.

        The desired capacity counts like instances, because the group will launch them. Instances that somebody
        protected from scale-in or put into standby survive a capacity of 0 ("Use instance scale-in protection",
        "Temporarily remove instances from your Auto Scaling group" in Auto Scaling's guide), and so do those that a
        lifecycle policy retains in `Terminating:Retained`.
        """
        instances = "$states.result.AutoScalingGroups.Instances"
        wanted = "$sum($states.result.AutoScalingGroups.DesiredCapacity)"
        running = f"$max([$count({instances}), {wanted}, $launching])"
        confirm = self._describe(
            scope,
            "Confirm that nothing runs",
            assign={
                "running": jsonata(running),
                "staying": jsonata(
                    f"""[($filter({instances}, function($instance) {{
                      $instance.ProtectedFromScaleIn
                      or $instance.LifecycleState in ['EnteringStandby', 'Standby', 'Terminating:Retained']
                    }}).InstanceId)[[0..{ENDED_AT_ONCE - 1}]]]"""
                ),
                **({} if judged is None else judged(running, wanted)),
            },
        )
        return (self._look_for_launches(scope), confirm)

    def end(self, scope: Construct) -> Steps:
        """
        Terminate each by id, despite scale-in protection; the desired capacity of 0 prevents replacements.

        `InstanceIds` would take one call, but the API has it only since 2026: a parameter that Step Functions does not
        know fails the execution, and no Catch helps.
        """
        one = self._call(
            scope,
            "End one",
            "terminateInstanceInAutoScalingGroup",
            named={"InstanceId": jsonata("$states.input")},
            retries=1,
            # The capacity is 0 already, so a decrement would be refused.
            ShouldDecrementDesiredCapacity=False,
        )
        each = sfn.Map.jsonata(
            scope, "End what stays", items=sfn.ProvideItems.jsonata(jsonata("$staying")), outputs=NO_OUTPUT
        )
        each.item_processor(one)
        return (each,)

    def bill(self, scope: Construct) -> Steps:  # noqa: ARG002  # the ledger has the times of every instance
        return ()

    def _look_for_launches(self, scope: Construct) -> sfn.TaskStateBase:
        """
        Set `$launching` to the number of launches in progress: until EC2 has answered, the group lists no instance.

        One page is enough: "Activities still in progress are described first" (EC2 Auto Scaling API Reference,
        `DescribeScalingActivities`). It is at most 100 KB, because a message has up to 255 and a cause up to 1,023
        characters.
        """
        return self._read_activities(
            scope,
            "Look for launches",
            assign={
                "launching": jsonata(
                    """$count($filter($states.result.Activities, function($activity) {
                      $not($activity.StatusCode in ['Successful', 'Failed', 'Cancelled'])
                      and $not($contains($string($activity.Description), 'Terminating'))
                    }))"""
                )
            },
        )

    def _read_activities(self, scope: Construct, name: str, *, assign: Mapping[str, Any]) -> sfn.TaskStateBase:
        return self._call(
            scope,
            name,
            "describeScalingActivities",
            arns=["*"],  # Auto Scaling's Describe actions support no resource-level permissions
            named={"AutoScalingGroupName": jsonata("$fleet.group")},
            assign=assign,
            MaxRecords=50,
        )

    def _describe(self, scope: Construct, name: str, *, assign: Mapping[str, Any]) -> sfn.TaskStateBase:
        return self._call(
            scope,
            name,
            "describeAutoScalingGroups",
            arns=["*"],  # Auto Scaling's Describe actions support no resource-level permissions
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
            parameters={**(named or {"AutoScalingGroupName": FENCED_GROUP}), **arguments},
            resources=self._arns if arns is None else arns,
            assign=assign,
            retries=retries,
        )
