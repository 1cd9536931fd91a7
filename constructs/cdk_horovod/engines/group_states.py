"""The states that scale an Auto Scaling group, and look at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import NO_OUTPUT, REDRIVEN, call_aws, jsonata
from horovod_node import contract

UNTOLD = "unknown"
"""Value of the tags of a run whose request does not say for whom or what it is."""


FENCED_GROUP = jsonata(
    f"$held = {REDRIVEN} ? $fleet.group : $error('The lease was not held since this execution was redriven.')"
)
"""Name of the group, for who has made sure of its lease; else the state fails, and what follows makes sure first."""

ENDED_AT_ONCE = 10
"""Instances that one turn of the loop ends by their ids; later turns end the others."""


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

    def _launches(self, place: str, *, fits: str | None = None) -> dict[str, Any]:
        """
        Write what the group launches, whole, because an update replaces it.

        Args:
            place: Expression of the object that holds it: an attempt, or the group at rest.
            fits: Expression of the GPUs that no single node may exceed. Default: every type is offered.
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

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> tuple[sfn.TaskStateBase, ...]:
        """
        Offer no type that has more GPUs than the run asks for: a run of 2 GPUs never pays for a node of 4.

        Every fleet and every attempt has a type of `gpu_step` GPUs, and a run asks for a multiple of those, so at least
        one type is always left.
        """
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
                **self._launches("$search.attempt", fits="$request.gpus"),
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
                        "ResourceId": FENCED_GROUP,
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
            named={"AutoScalingGroupName": jsonata("$fleet.group")},
            assign=judged(words),
            MaxRecords=50,
        )

    def replace(self, scope: Construct) -> sfn.TaskStateBase:
        """End it by its name: the group launches another one, because the capacity that it wants stays the same."""
        return self._call(
            scope,
            "Replace the leader",
            "terminateInstanceInAutoScalingGroup",
            named={"InstanceId": jsonata("$lost_leader")},
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
            **self._launches("$fleet.rest"),
        )

    def terminate(self, scope: Construct) -> sfn.TaskStateBase:
        """
        Lower the capacity alone, which needs no permission to launch anything.

        Of `UpdateAutoScalingGroup` Auto Scaling may want `ec2:RunInstances` and `iam:PassRole` (its guide, "Control
        Amazon EC2 launch template usage in Auto Scaling groups"), which the clean-up and the reaper do not have.
        """
        return self._call(scope, "Terminate", "setDesiredCapacity", DesiredCapacity=0, HonorCooldown=False)

    def look_for_launches(self, scope: Construct) -> sfn.TaskStateBase:
        """
        Count launches that have begun and have not ended: until EC2 answers, the group lists no instance of them.

        One page is enough: "Activities still in progress are described first" (EC2 Auto Scaling API Reference,
        `DescribeScalingActivities`). It is at most 100 KB, for a message has up to 255 and a cause up to 1,023
        characters.
        """
        return self._call(
            scope,
            "Look for launches",
            "describeScalingActivities",
            arns=["*"],  # Auto Scaling's Describe actions know no resources
            named={"AutoScalingGroupName": jsonata("$fleet.group")},
            assign={
                "launching": jsonata(
                    """$count($filter($states.result.Activities, function($activity) {
                      $not($activity.StatusCode in ['Successful', 'Failed', 'Cancelled'])
                      and $not($contains($string($activity.Description), 'Terminating'))
                    }))"""
                )
            },
            MaxRecords=50,
        )

    def confirm(
        self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]] | None = None
    ) -> sfn.TaskStateBase:
        """
        Look at the group itself, which knows an instance from the launch to its very end.

        A desired capacity counts like an instance: what is asked for and not yet there will come. An instance that
        somebody protected from scale-in, or put into standby, survives a capacity of 0 ("Use instance scale-in
        protection", "Temporarily remove instances from your Auto Scaling group" in Auto Scaling's guide), and so does
        one that a lifecycle policy retains in `Terminating:Retained`.
        """
        instances = "$states.result.AutoScalingGroups.Instances"
        wanted = "$sum($states.result.AutoScalingGroups.DesiredCapacity)"
        running = f"$max([$count({instances}), {wanted}])"
        return self._describe(
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

    def end(self, scope: Construct) -> sfn.Map:
        """
        End each by its id, which no protection hinders; the wanted capacity of 0 keeps others from taking their place.

        Not with `InstanceIds`, which the API has had since 2026 only: a parameter that Step Functions does not know
        fails the execution beyond any Catch.
        """
        one = self._call(
            scope,
            "End one",
            "terminateInstanceInAutoScalingGroup",
            named={"InstanceId": jsonata("$states.input")},
            retries=1,
            # The capacity cannot become smaller than 0: a decrement would be refused.
            ShouldDecrementDesiredCapacity=False,
        )
        each = sfn.Map.jsonata(
            scope, "End what stays", items=sfn.ProvideItems.jsonata(jsonata("$staying")), outputs=NO_OUTPUT
        )
        each.item_processor(one)
        return each

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
            parameters={**(named or {"AutoScalingGroupName": FENCED_GROUP}), **arguments},
            resources=self._arns if arns is None else arns,
            assign=assign,
            retries=retries,
        )
