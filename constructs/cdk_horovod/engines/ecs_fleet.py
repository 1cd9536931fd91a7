"""The engine that runs nodes as tasks of Amazon ECS, on the instances of a GPU fleet."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Arn, ArnFormat, Stack, Token
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge
from cdk_horovod.engines.ecs_roles import arn_in_cluster, execution_role, permit_instance, task_role
from cdk_horovod.engines.ecs_services import NodeTask, add_services, agent_config, fleet_name
from cdk_horovod.engines.ecs_states import EcsStates
from cdk_horovod.engines.engine import EngineConfig, EngineTarget, FleetConfig
from cdk_horovod.engines.gpu_fleets import check_fleets, claim, fleet_config, launch_permissions, node_environment
from cdk_horovod.engines.group_states import AUTO_SCALING_READS
from cdk_horovod.engines.placement_constraints import check_constraints, check_form
from cdk_horovod.engines.provider_words import ECS_WORDS
from cdk_horovod.engines.user_data import container_instance_user_data
from cdk_horovod.fleet.gpu_fleet import GpuFleet
from cdk_horovod.resources.image import TrainingImageConfig
from horovod_node import contract


class EcsEngine:
    """
    Runs nodes as tasks of Amazon ECS, on the instances of a `GpuFleet`.

    An instance of the fleet joins the cluster when it boots, and ECS places one task on it that has all of its GPUs.
    Capacity, and the four layers that leave nothing running, are those of the fleet's Auto Scaling group, as on EC2: no
    capacity provider, because ECS supports none for groups with instance weights (its Developer Guide, "Amazon ECS
    capacity providers for the EC2 launch type").

    Creates: a cluster unless one is given; for each fleet a role of its containers, a role to pull the image, and a
    task definition with a daemon service for each number of GPUs of its types. A fleet without a machine image of its
    own gets the newest ECS-optimized GPU AMI at each deployment, which also drives P3.

    A script has the permissions of the container's role, `training.engine.fleets[…].node_role`; what is granted to the
    fleet itself, only the instance has.

    Cost at rest: none, but isolated subnets need two more endpoints (`TrainingNetwork`, *ecs*).

    Args:
        fleets: The fleets, in the order in which a run tries them.
        cluster: See `Engine.ecs`.
        placement_constraints: See `Engine.ecs`.
        room: See `Engine.ecs`.

    Raises:
        ValueError: If an argument cannot work; the message names it and its value.
    """

    def __init__(
        self,
        *,
        fleets: Sequence[GpuFleet],
        cluster: ecs.ICluster | None = None,
        placement_constraints: Sequence[str] = (),
        room: float = 0.1,
    ) -> None:
        self._fleets = check_fleets(fleets)
        self._constraints = check_form(placement_constraints)
        if not 0 <= room <= 0.5:
            raise ValueError(f"'room' must be from 0 to 0.5, got {room}")
        for fleet in self._fleets:
            check_constraints(self._constraints, instance_types=fleet.capacity.instance_types)
            if fleet.efa_interfaces and fleet.chosen_image is not None:
                raise ValueError(
                    "'fleet' must have no 'efa', or a 'machine_image' with both the ECS agent and EFA, because the ECS "
                    "GPU AMI has no EFA"
                )
            if fleet.boundary is not None and not fleet.boundary.ecs:
                raise ValueError(
                    f"'fleet' must be in a network with the endpoints of Amazon ECS, got {fleet.node.path} in one "
                    "without; set 'ecs' of its TrainingNetwork"
                )
            if cluster is not None:
                _refuse_elsewhere(cluster, fleet=fleet)
        self._cluster = cluster
        self._own_cluster = cluster is None
        self._room = room

    @property
    def cluster(self) -> ecs.ICluster:
        """
        The cluster that was given, or the one that a training with this engine has created.

        Raises:
            ValueError: If no cluster was given, and no training uses the engine yet.
        """
        if self._cluster is None:
            raise ValueError("'cluster' exists when the engine was passed to HorovodTraining, got none before that")
        return self._cluster

    def bind(self, scope: Construct, target: EngineTarget) -> EngineConfig:
        """
        Create the cluster, the services and the roles, and build the states that scale the fleets.

        Raises:
            ValueError: If a fleet already serves another training, or the image has no code for its GPUs.
        """
        for fleet in self._fleets:
            claim(fleet, scope=scope, target=target)
        if self._cluster is None:
            self._cluster = _own_cluster(scope, fleet=self._fleets[0])
        image = target.image.bind(scope)
        fleets, statements = [], []
        for fleet in self._fleets:
            config, passing = self._bind_fleet(
                Construct(scope, f"Ecs{fleet.fleet_id}"), fleet=fleet, image=image, target=target
            )
            fleets.append(config)
            statements += [*launch_permissions(fleet), passing]
        states = EcsStates(
            arns=[fleet.auto_scaling_group_arn for fleet in self._fleets],
            blocks=self._fleets[0].is_block,
            services=[each["service"] for fleet in fleets for each in fleet.rest["services"]],
            cluster=self._cluster,
            own_cluster=self._own_cluster,
        )
        return EngineConfig(
            fleets=tuple(fleets),
            states=states,
            reads=AUTO_SCALING_READS,
            statements=(
                *statements,
                *states.permissions(tasks=arn_in_cluster(scope, "task", cluster=self._cluster)),
            ),
        )

    def _bind_fleet(
        self, scope: Construct, *, fleet: GpuFleet, image: TrainingImageConfig, target: EngineTarget
    ) -> tuple[FleetConfig, iam.PolicyStatement]:
        """Create what one fleet needs; return it with the permission to let ECS use its roles."""
        if fleet.chosen_image is not None:
            fleet.chosen_image.choose(ecs.EcsOptimizedImage.amazon_linux2023(ecs.AmiHardwareType.GPU))
        permit_instance(scope, fleet=fleet, cluster=self.cluster, target=target)
        container = task_role(scope, fleet=fleet)
        execution = execution_role(scope, fleet=fleet, target=target)
        image.grant_pull(execution)
        services = add_services(
            scope,
            fleet=fleet,
            cluster=self.cluster,
            task=NodeTask(
                image_uri=image.uri,
                task_role=container,
                execution_role=execution,
                log_group=target.node_log_group,
                room=self._room,
                constraints=self._constraints,
            ),
        )
        fleet.user_data.add_commands(
            *container_instance_user_data(
                environment=node_environment(fleet, engine=contract.ENGINE_ECS, image_uri=image.uri, target=target),
                agent_config=agent_config(fleet, cluster=self.cluster),
            )
        )
        # For UpdateService, which makes tasks with these roles (ECS Developer Guide, "Amazon ECS task IAM role").
        passing = iam.PolicyStatement(
            actions=["iam:PassRole"],
            resources=[container.role_arn, execution.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        )
        config = fleet_config(
            fleet,
            engine="ECS",
            words=ECS_WORDS,
            node_role=container,
            rest={"services": services, "name": fleet_name(fleet)},
            resources={"cluster": self.cluster.cluster_name, "services": [each["service"] for each in services]},
        )
        return config, passing


def _own_cluster(scope: Construct, *, fleet: GpuFleet) -> ecs.Cluster:
    cluster = ecs.Cluster(scope, "Cluster", vpc=fleet.vpc)
    acknowledge(
        cluster,
        rule="ECS4",
        reason="Nodes publish metrics of their runs; Container Insights would bill for its own at every node.",
    )
    return cluster


def _refuse_elsewhere(cluster: ecs.ICluster, *, fleet: GpuFleet) -> None:
    known = not Token.is_unresolved(cluster.cluster_arn)
    place = Arn.split(cluster.cluster_arn, ArnFormat.SLASH_RESOURCE_NAME) if known else cluster.env
    own = Stack.of(fleet)
    for theirs, ours in ((place.account, own.account), (place.region, own.region)):
        if theirs != ours and not Token.is_unresolved(theirs) and not Token.is_unresolved(ours):
            raise ValueError(
                f"'cluster' must be in the fleet's account and Region, got {cluster.cluster_name} in {place.account}, "
                f"{place.region}"
            )
