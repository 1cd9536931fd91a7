"""The default engine: a mixed Spot and On-Demand Auto Scaling group that rests at zero."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.engines.engine import EngineConfig, EngineTarget
from cdk_horovod.fleet import GpuFleet
from cdk_horovod.user_data import node_user_data
from cdk_horovod.workflow.states import call_aws, failure, jsonata
from horovod_node import contract

_SERVES = "cdk_horovod:serves"
"""Metadata of a fleet: path of the training that it is bound to."""


class Ec2FleetEngine:
    """
    Runs nodes as instances of a `GpuFleet`.

    Binding adds to the fleet's user data: the nodes' environment and the start of the container.

    Args:
        fleet: The fleet. One training a fleet: user data names one ledger and one image.
    """

    def __init__(self, *, fleet: GpuFleet) -> None:
        self._fleet = fleet

    def bind(self, scope: Construct, target: EngineTarget) -> EngineConfig:
        """
        Complete the fleet's user data and build the states that scale it.

        Raises:
            ValueError: If the fleet already serves another training.
        """
        fleet = self._fleet
        for entry in fleet.node.metadata:
            if entry.type == _SERVES:
                raise ValueError(
                    f"'fleet' must serve one training, got {fleet.node.path}, which already serves {entry.data}"
                )
        # On the fleet, not on this object: two engines may be given the same fleet.
        fleet.node.add_metadata(_SERVES, scope.node.path)
        self._boot_nodes(scope, target)

        group = fleet.auto_scaling_group_name
        arn = fleet.auto_scaling_group_arn

        def autoscaling(name: str, action: str, **arguments: object) -> sfn.TaskStateBase:
            return call_aws(
                scope,
                name,
                service="autoscaling",
                action=action,
                parameters={"AutoScalingGroupName": group, **arguments},
                resources=[arn],
            )

        leader = [jsonata("$ring.leader.node")]
        return EngineConfig(
            fleet_id=fleet.fleet_id,
            max_gpus=fleet.max_gpus,
            gpu_step=fleet.gpu_step,
            leader_market=fleet.leader_market,
            node_role=fleet.role,
            start=(
                # Balancing zones terminates healthy nodes in mid-run; no CloudFormation property turns it off.
                autoscaling("Suspend rebalancing", "suspendProcesses", ScalingProcesses=["AZRebalance"]),
                autoscaling("Start nodes", "updateAutoScalingGroup", DesiredCapacity=jsonata("$request.gpus")),
            ),
            explain=_explain(scope, group),
            protect=call_aws(
                scope,
                "Protect the leader",
                service="autoscaling",
                action="setInstanceProtection",
                parameters={"AutoScalingGroupName": group, "InstanceIds": leader, "ProtectedFromScaleIn": True},
                resources=[arn],
                assign={"protected": True},
            ),
            release=autoscaling(
                "Release the workers", "updateAutoScalingGroup", DesiredCapacity=jsonata("$ring.leader.gpus")
            ),
            unprotect=autoscaling(
                # A protected instance survives a capacity of 0.
                "Lift the protection",
                "setInstanceProtection",
                InstanceIds=leader,
                ProtectedFromScaleIn=False,
            ),
            terminate=autoscaling("Terminate", "updateAutoScalingGroup", DesiredCapacity=0),
            confirm=call_aws(
                scope,
                "Confirm that nothing runs",
                service="autoscaling",
                action="describeAutoScalingGroups",
                parameters={"AutoScalingGroupNames": [group]},
                resources=["*"],  # Auto Scaling's Describe actions know no resources
                assign={"running": jsonata("$count($states.result.AutoScalingGroups.Instances)")},
            ),
        )

    def _boot_nodes(self, scope: Construct, target: EngineTarget) -> None:
        fleet = self._fleet
        image = target.image.bind(scope)
        image.grant_pull(fleet.role)
        region = Stack.of(scope).region
        fleet.user_data.add_commands(
            *node_user_data(
                image_uri=image.uri,
                environment={
                    contract.ENV_ENGINE: contract.ENGINE_EC2,
                    contract.ENV_LEDGER_TABLE: target.ledger.table.table_name,
                    contract.ENV_FLEET: fleet.fleet_id,
                    "AWS_REGION": region,
                    "AWS_DEFAULT_REGION": region,
                },
                log_group_name=target.node_log_group.log_group_name,
            )
        )


def _explain(scope: Construct, group: str) -> sfn.TaskStateBase:
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
    return call_aws(
        scope,
        "Find out why",
        service="autoscaling",
        action="describeScalingActivities",
        parameters={"AutoScalingGroupName": group, "MaxRecords": 20},
        resources=["*"],  # Auto Scaling's Describe actions know no resources
        assign=failure(contract.ERROR_RING_NOT_FORMED, cause),
    )
