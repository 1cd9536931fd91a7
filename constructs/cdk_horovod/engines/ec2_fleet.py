"""The default engine: mixed Spot and On-Demand Auto Scaling groups that rest at zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.engines.engine import EngineConfig, EngineTarget, FleetConfig
from cdk_horovod.fleet import GpuFleet
from cdk_horovod.image import TrainingImageConfig
from cdk_horovod.user_data import node_user_data
from cdk_horovod.workflow.states import call_aws, failure, jsonata, now_as
from horovod_node import contract

_SERVES = "cdk_horovod:serves"
"""Metadata of a fleet: path of the training that it is bound to."""


class Ec2FleetEngine:
    """
    Runs nodes as instances of a `GpuFleet`.

    Binding adds to each fleet's user data: the nodes' environment, the dead-man's switch, the start of the container.

    Args:
        fleets: The fleets, in the order in which a run tries them. One training a fleet: user data names one ledger and
            one image.

    Raises:
        ValueError: If there is no fleet.
    """

    def __init__(self, *, fleets: Sequence[GpuFleet]) -> None:
        if not fleets:
            raise ValueError("'fleets' must be at least one, got none")
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
                    leader_market=fleet.leader_market,
                    node_role=fleet.role,
                )
                for fleet in self._fleets
            ),
            states=_GroupStates(arns=[fleet.auto_scaling_group_arn for fleet in self._fleets]),
        )


class _GroupStates:
    """States that act on the Auto Scaling group in `$fleet.group`."""

    def __init__(self, *, arns: Sequence[str]) -> None:
        self._arns = arns

    def start(self, scope: Construct) -> tuple[sfn.TaskStateBase, ...]:
        return (
            # Balancing zones terminates healthy nodes in mid-run; no CloudFormation property turns it off.
            self._call(scope, "Suspend rebalancing", "suspendProcesses", ScalingProcesses=["AZRebalance"]),
            self._call(
                scope,
                "Start nodes",
                "updateAutoScalingGroup",
                assign={"times": now_as("asked_at")},
                DesiredCapacity=jsonata("$request.gpus"),
            ),
        )

    def explain(self, scope: Construct) -> sfn.TaskStateBase:
        """Read what Auto Scaling says of launches that failed since the run got the fleet."""
        words = """$distinct($filter($states.result.Activities, function($activity) {
          $activity.StatusCode in ['Failed', 'Cancelled']
          and $toMillis($string($activity.StartTime)) >= $toMillis($times.reserved_at)
        }).StatusMessage)"""
        cause = (
            f"($words := {words}; 'The ring of ' & $request.gpus & ' GPUs did not form in time. ' & "
            "($exists($words) ? 'Auto Scaling says: ' & $join($words, ' ') "
            ": 'Auto Scaling reports no failed launch: see the logs of the nodes.'))"
        )
        return self._call(
            scope,
            "Find out why",
            "describeScalingActivities",
            arns=["*"],  # Auto Scaling's Describe actions know no resources
            assign=failure(contract.ERROR_RING_NOT_FORMED, cause),
            MaxRecords=20,
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

    def release(self, scope: Construct) -> sfn.TaskStateBase:
        return self._call(
            scope, "Release the workers", "updateAutoScalingGroup", DesiredCapacity=jsonata("$ring.leader.gpus")
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
                contract.ENV_LEASE_SECONDS: str(int(target.lease_timeout.to_seconds())),
                "AWS_REGION": region,
                "AWS_DEFAULT_REGION": region,
                **fleet.node_environment,
            },
            log_group_name=target.node_log_group.log_group_name,
        )
    )
