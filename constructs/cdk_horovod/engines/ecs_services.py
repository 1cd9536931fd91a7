"""
Task definitions and daemon services, which give every node of a fleet its task without a call of anybody.

A service with the scheduling strategy DAEMON "deploys exactly one task on each active container instance that meets all
of the task placement constraints" (ECS Developer Guide, "Amazon ECS services"). A task gets a fixed number of GPUs, so
a fleet has one service for each number of GPUs of its types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aws_cdk import CfnDeletionPolicy, Names, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_horovod.engines.user_data import CONTAINER_INSTANCE_ML_ROOT
from cdk_horovod.fleet.gpu_fleet import GpuFleet
from horovod_node import contract

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_horovod.fleet.gpu_types import GpuInstanceType

ATTRIBUTE: Final = "cdk-horovod.fleet"
"""Attribute of container instances that names their fleet."""
REGISTERED_MEMORY: Final = 0.9
"""
Share of a type's memory that a task can claim at most.

An instance registers the memory that its kernel finds, which is a few per cent less than the type has.
"""
_HOST_ENVIRONMENT: Final = contract.NODE_ENV_FILE.rpartition("/")[0]
_MIB_OF_A_GIB: Final = 1024
_UNITS_OF_A_VCPU: Final = 1024


@dataclass(frozen=True, kw_only=True)
class NodeTask:
    """
    What the tasks of all nodes have in common.

    Args:
        image_uri: URI of the training image.
        task_role: Role of the container.
        execution_role: Role with which the agent pulls the image and writes the log.
        log_group: Log group of the container's output.
        room: Share of an instance's processors and memory that is left to tasks of others.
        constraints: Placement constraints of the user's own.
    """

    image_uri: str
    task_role: iam.IRole
    execution_role: iam.IRole
    log_group: logs.ILogGroup
    room: float
    constraints: Sequence[str]


def fleet_name(fleet: GpuFleet) -> str:
    """Return the name of *fleet* in its account and Region; an attribute's value has at most 128 characters."""
    return Names.unique_resource_name(fleet, max_length=100, separator="-")


def agent_config(fleet: GpuFleet, *, cluster: ecs.ICluster) -> dict[str, str]:
    """
    Return the configuration of the agent of ECS on the fleet's instances.

    Source: README of amazon-ecs-agent, "Environment Variables".
    """
    return {
        "ECS_CLUSTER": cluster.cluster_name,
        "ECS_INSTANCE_ATTRIBUTES": f'{{"{ATTRIBUTE}": "{fleet_name(fleet)}"}}',
        # At a Spot notice the node's own agent leaves its ring; ECS would stop it in the first of the two minutes.
        "ECS_ENABLE_SPOT_INSTANCE_DRAINING": "false",
        # Together they leave out the telemetry session, with its endpoint and its permission.
        "ECS_DISABLE_METRICS": "true",
        "ECS_DISABLE_DOCKER_HEALTH_CHECK": "true",
        # A container that ended is started again from the image that is there.
        "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
        # As `--pids-limit` on EC2: the limit leaves process ids for the dead-man's switch.
        "ECS_TASK_PIDS_LIMIT": "65536",
        # The guide wants it for a container with security options; no-new-privileges is one.
        "ECS_SELINUX_CAPABLE": "true",
    }


def add_services(scope: Construct, *, fleet: GpuFleet, cluster: ecs.ICluster, task: NodeTask) -> list[dict[str, str]]:
    """
    Create a task definition and a service for each number of GPUs of the fleet's types.

    Args:
        scope: Construct that owns them; it can own those of one fleet only.
        fleet: The fleet.
        cluster: The cluster, which is not changed.
        task: What all tasks have in common.

    Returns:
        For each service its ARN, `service`, and that of the task definition's revision, `task`.
    """
    services = []
    for gpus in sorted({row.gpus for row in fleet.capacity.instance_types}):
        rows = [row for row in fleet.capacity.instance_types if row.gpus == gpus]
        definition = _task_definition(scope, fleet=fleet, gpus=gpus, rows=rows, task=task)
        service = ecs.CfnService(
            scope,
            f"Service{gpus}",
            cluster=cluster.cluster_name,
            # The family, not a revision: with one, a deployment would stop the tasks of a running ring. Each run
            # chooses the revision of its own template when its fleet is empty.
            task_definition=definition.family,
            scheduling_strategy="DAEMON",
            # Said, because a cluster's default capacity provider strategy would be refused for daemons.
            launch_type="EC2",
            deployment_configuration=ecs.CfnService.DeploymentConfigurationProperty(
                minimum_healthy_percent=0, maximum_percent=100
            ),
            availability_zone_rebalancing="DISABLED",
            placement_constraints=[
                ecs.CfnService.PlacementConstraintProperty(type="memberOf", expression=expression)
                for expression in (
                    f"attribute:{ATTRIBUTE} == {fleet_name(fleet)} and "
                    f"attribute:ecs.instance-type in [{', '.join(row.name for row in rows)}]",
                    *task.constraints,
                )
            ],
        )
        service.node.add_dependency(definition)
        services.append({"service": service.ref, "task": definition.ref})
    return services


def _task_definition(
    scope: Construct, *, fleet: GpuFleet, gpus: int, rows: Sequence[GpuInstanceType], task: NodeTask
) -> ecs.CfnTaskDefinition:
    """
    Create the task definition of nodes with *gpus* GPUs.

    Without a task size, because its memory would be a hard limit. The environment is mounted: the dead-man's switch on
    the host reads the same file.
    """
    # Folder on the host, folder in the container, and whether the container can only read it.
    mounts = {
        "ml": (CONTAINER_INSTANCE_ML_ROOT, contract.DEFAULT_ML_ROOT, False),
        "environment": (_HOST_ENVIRONMENT, _HOST_ENVIRONMENT, True),
    }
    left = 1 - task.room
    definition = ecs.CfnTaskDefinition(
        scope,
        f"Task{gpus}",
        family=f"{fleet_name(fleet)}-{gpus}",
        requires_compatibilities=["EC2"],
        # As on EC2, ring traffic uses the host's network directly, and NCCL shares memory between GPUs.
        network_mode="host",
        ipc_mode="host",
        task_role_arn=task.task_role.role_arn,
        execution_role_arn=task.execution_role.role_arn,
        volumes=[
            ecs.CfnTaskDefinition.VolumeProperty(
                name=name, host=ecs.CfnTaskDefinition.HostVolumePropertiesProperty(source_path=source)
            )
            for name, (source, _, _) in mounts.items()
        ],
        container_definitions=[
            ecs.CfnTaskDefinition.ContainerDefinitionProperty(
                name="node",
                image=task.image_uri,
                essential=True,
                # Otherwise ECS would replace a tag by the digest of the first task, for all later runs.
                version_consistency="disabled",
                resource_requirements=[ecs.CfnTaskDefinition.ResourceRequirementProperty(type="GPU", value=str(gpus))],
                # Claims on the smallest type, which keep others' tasks away. Docker's default weight of a processor
                # would be next to none beside theirs.
                cpu=int(_UNITS_OF_A_VCPU * left * min(row.vcpus for row in rows)),
                memory_reservation=int(
                    _MIB_OF_A_GIB * min(left, REGISTERED_MEMORY) * min(row.memory_gib for row in rows)
                ),
                # A claim, too: two nodes never share a host.
                port_mappings=[
                    ecs.CfnTaskDefinition.PortMappingProperty(
                        container_port=contract.RENDEZVOUS_PORT, host_port=contract.RENDEZVOUS_PORT, protocol="tcp"
                    )
                ],
                ulimits=[
                    ecs.CfnTaskDefinition.UlimitProperty(name=name, soft_limit=limit, hard_limit=limit)
                    for name, limit in (("memlock", -1), ("stack", 67_108_864))
                ],
                docker_security_options=["no-new-privileges"],
                linux_parameters=ecs.CfnTaskDefinition.LinuxParametersProperty(
                    capabilities=ecs.CfnTaskDefinition.KernelCapabilitiesProperty(drop=["ALL"]), **_devices(fleet)
                ),
                stop_timeout=30,
                mount_points=[
                    ecs.CfnTaskDefinition.MountPointProperty(
                        source_volume=name, container_path=path, read_only=read_only
                    )
                    for name, (_, path, read_only) in mounts.items()
                ],
                log_configuration=ecs.CfnTaskDefinition.LogConfigurationProperty(
                    log_driver="awslogs",
                    options={
                        "awslogs-group": task.log_group.log_group_name,
                        "awslogs-region": Stack.of(scope).region,
                        "awslogs-stream-prefix": "ecs",
                        # If CloudWatch is slow, log lines are lost, but training does not wait.
                        "mode": "non-blocking",
                    },
                ),
            )
        ],
    )
    # A queued run names the revision of its own day; ECS places no tasks of a revision that was deregistered.
    definition.cfn_options.update_replace_policy = CfnDeletionPolicy.RETAIN
    definition.cfn_options.deletion_policy = CfnDeletionPolicy.DELETE
    return definition


def _devices(fleet: GpuFleet) -> Mapping[str, Any]:
    """Return the Elastic Fabric Adapters of a node; the software for them must be in the image."""
    if not fleet.efa_interfaces:
        return {}
    return {
        "devices": [
            ecs.CfnTaskDefinition.DeviceProperty(host_path=f"/dev/infiniband/uverbs{number}")
            for number in range(fleet.efa_interfaces)
        ]
    }
