"""The default engine: mixed Spot and On-Demand Auto Scaling groups that rest at zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.capacity_plan import PlannedAttempt
from cdk_horovod.engines.engine import EngineConfig, EngineTarget, FleetConfig
from cdk_horovod.fleet import GpuFleet
from cdk_horovod.image import TrainingImageConfig
from cdk_horovod.user_data import node_user_data
from cdk_horovod.workflow.states import call_aws, jsonata
from horovod_node import contract

_SERVES = "cdk_horovod:serves"
"""Metadata of a fleet: path of the training that it is bound to."""

UNTOLD = "unknown"
"""Value of the tags of a run whose request does not say for whom or what it is."""


class Ec2FleetEngine:
    """
    Runs nodes as instances of a `GpuFleet`.

    Binding adds to each fleet's user data: the nodes' environment, the dead-man's switch, the start of the container.

    Args:
        fleets: The fleets, in the order in which a run tries them. One training a fleet: user data names one ledger and
            one image.

    Raises:
        ValueError: If there is no fleet, or some are Capacity Blocks and some are not.
    """

    def __init__(self, *, fleets: Sequence[GpuFleet]) -> None:
        if not fleets:
            raise ValueError("'fleets' must be at least one, got none")
        if len({fleet.is_block for fleet in fleets}) > 1:
            # Their groups are scaled by different calls.
            raise ValueError("'fleets' must all be Capacity Blocks, or none of them, got some of each")
        self._fleets = tuple(fleets)

    def bind(self, scope: Construct, target: EngineTarget) -> EngineConfig:
        """
        Complete the fleets' user data and build the states that scale them.

        Raises:
            ValueError: If a fleet already serves another training.
        """
        image = target.image.bind(scope)
        for fleet in self._fleets:
            _claim(fleet, serves=scope.node.path)
            _boot_nodes(fleet, image=image, target=target)
        return EngineConfig(
            fleets=tuple(
                FleetConfig(
                    id=fleet.fleet_id,
                    group=fleet.auto_scaling_group_name,
                    group_arn=fleet.auto_scaling_group_arn,
                    size=contract.FleetSize(max_gpus=fleet.max_gpus, gpu_step=fleet.gpu_step),
                    types={row.name: row.gpus for row in fleet.capacity.instance_types},
                    leader_market=fleet.leader_market,
                    node_role=fleet.role,
                    plan=tuple(_as_states_read_it(attempt, fleet=fleet) for attempt in fleet.attempts),
                    rest={
                        "policy": _policy(fleet),
                        "subnets": ",".join(fleet.subnet_ids),
                        "unit": fleet.gpus_of_a_unit,
                    },
                )
                for fleet in self._fleets
            ),
            states=_GroupStates(
                arns=[fleet.auto_scaling_group_arn for fleet in self._fleets],
                blocks=self._fleets[0].is_block,
            ),
            statements=tuple(statement for fleet in self._fleets for statement in _launch_permissions(fleet)),
        )


class _GroupStates:
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
                VPCZoneIdentifier=jsonata("$search.attempt.subnets"),
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
        return self._call(
            scope,
            "See what is there",
            "describeAutoScalingGroups",
            arns=["*"],  # Auto Scaling's Describe actions know no resources
            named={"AutoScalingGroupNames": [jsonata("$fleet.group")]},
            assign=judged(there),
        )

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
            VPCZoneIdentifier=jsonata("$fleet.rest.subnets"),
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
        return self._call(
            scope,
            "Confirm that nothing runs",
            "describeAutoScalingGroups",
            arns=["*"],  # Auto Scaling's Describe actions know no resources
            named={"AutoScalingGroupNames": [jsonata("$fleet.group")]},
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


def _as_states_read_it(attempt: PlannedAttempt, *, fleet: GpuFleet) -> dict[str, Any]:
    """Write an attempt as the run's states read it, see `cdk_horovod.workflow.search`."""
    return {
        "words": attempt.words,
        "time_limit": None if attempt.time_limit is None else int(attempt.time_limit.to_seconds()),
        "empties": attempt.empties,
        "market": attempt.market,
        "base": fleet.on_demand_base_gpus,
        "families": sorted({row.name[0] for row in attempt.instance_types}),
        "policy": _policy(fleet, attempt),
        "subnets": ",".join(attempt.subnets),
    }


def _policy(fleet: GpuFleet, attempt: PlannedAttempt | None = None) -> dict[str, Any]:
    """Write the group's policy in an attempt, or at rest: whole, because an update replaces it."""
    types = fleet.capacity.instance_types if attempt is None else attempt.instance_types
    return {
        "LaunchTemplate": {
            "LaunchTemplateSpecification": {
                "LaunchTemplateId": fleet.launch_template.launch_template_id,
                "Version": fleet.launch_template.version_number,
            },
            "Overrides": [{"InstanceType": row.name, "WeightedCapacity": str(row.gpus)} for row in types],
        },
        "InstancesDistribution": fleet.instances_distribution(attempt),
    }


def _launch_permissions(fleet: GpuFleet) -> tuple[iam.PolicyStatement, ...]:
    """
    Let the workflow give the group its launch template.

    Auto Scaling asks whether its caller may launch what the template describes (EC2 Auto Scaling User Guide, "Control
    Amazon EC2 launch template usage in Auto Scaling groups"): instances of this template, with its role and tags.
    """
    stack = Stack.of(fleet)
    template = stack.format_arn(
        service="ec2", resource="launch-template", resource_name=fleet.launch_template.launch_template_id
    )
    return (
        iam.PolicyStatement(
            actions=["ec2:RunInstances"],
            resources=["*"],
            conditions={"ArnEquals": {"ec2:LaunchTemplate": template}},
        ),
        iam.PolicyStatement(
            actions=["ec2:CreateTags"],
            resources=["*"],
            conditions={"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        ),
        iam.PolicyStatement(
            actions=["iam:PassRole"],
            resources=[fleet.role.role_arn],
            conditions={"StringLike": {"iam:PassedToService": "ec2.amazonaws.com*"}},
        ),
    )


def _claim(fleet: GpuFleet, *, serves: str) -> None:
    for entry in fleet.node.metadata:
        if entry.type == _SERVES:
            raise ValueError(
                f"'fleet' must serve one training, got {fleet.node.path}, which already serves {entry.data}"
            )
    # On the fleet, not on the engine: two engines may be given the same fleet.
    fleet.node.add_metadata(_SERVES, serves)


def _boot_nodes(fleet: GpuFleet, *, image: TrainingImageConfig, target: EngineTarget) -> None:
    image.grant_pull(fleet.role)
    region = Stack.of(fleet).region
    fleet.user_data.add_commands(
        *node_user_data(
            image_uri=image.uri,
            environment={
                contract.ENV_ENGINE: contract.ENGINE_EC2,
                contract.ENV_LEDGER_TABLE: target.ledger.table.table_name,
                contract.ENV_FLEET: fleet.fleet_id,
                contract.ENV_TRAINING: target.name,
                contract.ENV_LOG_GROUP: target.node_log_group.log_group_name,
                contract.ENV_IMAGE: image.uri,
                contract.ENV_LEASE_SECONDS: str(int(target.lease_timeout.to_seconds())),
                "AWS_REGION": region,
                "AWS_DEFAULT_REGION": region,
                **fleet.node_environment,
            },
            log_group_name=target.node_log_group.log_group_name,
        )
    )
