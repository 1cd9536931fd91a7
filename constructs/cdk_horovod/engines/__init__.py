"""Engines, which provide the nodes of a run: their protocol, and the engines of this library."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk.aws_ec2 import IVpc, SubnetSelection
from aws_cdk.aws_ecs import ICluster

from cdk_horovod.engines.ec2_fleet import Ec2FleetEngine
from cdk_horovod.engines.ecs_fleet import EcsEngine
from cdk_horovod.engines.engine import EngineConfig, EngineTarget, FleetConfig, IEngine, IFleetStates
from cdk_horovod.engines.first_available import FirstAvailableEngine
from cdk_horovod.engines.provider_words import ProviderWords
from cdk_horovod.engines.sagemaker import SageMakerEngine, check_options
from cdk_horovod.fleet.capacity_plan import CapacityPlan
from cdk_horovod.fleet.gpu_fleet import GpuFleet

__all__ = [
    "Ec2FleetEngine",
    "EcsEngine",
    "Engine",
    "EngineConfig",
    "EngineTarget",
    "FirstAvailableEngine",
    "FleetConfig",
    "IEngine",
    "IFleetStates",
    "ProviderWords",
    "SageMakerEngine",
]


class Engine:
    """The engines of this library. Any other implementation of `IEngine` can be used as well."""

    @staticmethod
    def ec2(*fleets: GpuFleet) -> IEngine:
        """Run nodes as instances of one of *fleets*: the first one that is free and fits the run."""
        return Ec2FleetEngine(fleets=fleets)

    @staticmethod
    def ecs(
        *fleets: GpuFleet,
        cluster: ICluster | None = None,
        placement_constraints: Sequence[str] = (),
        room: float = 0.1,
    ) -> EcsEngine:
        """
        Run nodes as tasks of Amazon ECS, on instances of one of *fleets*: the first one that is free and fits the run.

        Args:
            fleets: See `Engine.ec2`.
            cluster:
                A cluster that others use, too. Only task definitions and services are added to it; instances and tasks
                of others are not touched. Their daemon services run on the nodes as well, unless their owners give them
                the constraint `attribute:cdk-horovod.fleet !exists`; a script can get the credentials of every task on
                its node (docs/security.md).
                Default: a new cluster.
            placement_constraints:
                Expressions of the cluster query language that a node's instance must match, all of them, such as
                `attribute:ecs.instance-type =~ p3.*`. They are checked against the fleets' types.
                Default: none.
            room:
                Share of an instance's processors and memory that is left to tasks of others, such as daemons for logs,
                from 0 to 0.5. If theirs take more, a node never gets its own task. At least a tenth of the memory is
                left in any case, because the operating system has some.
                Default: 0.1.

        Raises:
            ValueError: If the fleets cannot run on ECS; the message names the argument and the value.
        """
        return EcsEngine(fleets=fleets, cluster=cluster, placement_constraints=placement_constraints, room=room)

    @staticmethod
    def first_available(*engines: IEngine) -> IEngine:
        """
        Run nodes on the first of two or three engines that has a free fleet with capacity.

        A run takes the first free fleet that fits it, of any of the engines. When all attempts of that fleet's capacity
        plan have been made in vain, it empties the fleet, goes on to those of the other engines, and waits in the queue
        where none is free. A run that has begun to train resumes there from its newest checkpoint. Attempts, nodes and
        costs of all fleets are in its one receipt.

        Args:
            engines: The engines, for example `Engine.ec2(fleet)` and `Engine.sagemaker(...)`. Two fleets on EC2, of
                which the second is for want of the first, are two engines: `Engine.ec2(first)`, `Engine.ec2(second)`.

        Raises:
            ValueError: If there are fewer or more engines, or one of them is there twice.
        """
        return FirstAvailableEngine(engines=engines)

    @staticmethod
    def sagemaker(
        *,
        instance_types: Sequence[str],
        max_gpus: int,
        capacity_plan: CapacityPlan | None = None,
        max_concurrent_jobs: int = 1,
        vpc: IVpc | None = None,
        vpc_subnets: SubnetSelection | None = None,
        volume_gib: int = 200,
        encrypt_traffic: bool = False,
    ) -> IEngine:
        """
        Run nodes as containers of SageMaker training jobs: nothing to own but roles, and quotas of SageMaker's own.

        All nodes of a job are of one type and one market, and start and end together. A run that loses a node starts
        again from its newest checkpoint in a new job.

        Args:
            instance_types: SageMaker's types, such as `ml.g5.12xlarge`, in the order in which they are tried. A run
                gets only types whose GPUs divide its own.
            max_gpus: Most GPUs of a job.
            capacity_plan: Attempts to get a job, each made with every type in turn. Default: managed Spot, which waits
                15 minutes for each type, then On-Demand.
            max_concurrent_jobs: How many runs train at the same time; others wait in the queue. Default: 1.
            vpc: Network of the jobs. Default: SageMaker's own, with a way to the internet and none from it. In a VPC
                the jobs need a way to S3, DynamoDB, Step Functions and CloudWatch Logs, and the training's script gets
                SageMaker's permissions for network interfaces.
            vpc_subnets: Which subnets of *vpc*. Default: those of `IVpc.select_subnets`.
            volume_gib: Size of each instance's volume, in GiB; types with local NVMe disks have no volume.
            encrypt_traffic: Whether SageMaker encrypts the traffic between the containers of a job, which makes the
                exchange of gradients slower.

        Raises:
            ValueError: If jobs could not run like this.
        """
        return SageMakerEngine(
            options=check_options(
                instance_types=instance_types,
                max_gpus=max_gpus,
                capacity_plan=capacity_plan,
                vpc=vpc,
                vpc_subnets=vpc_subnets,
                max_concurrent_jobs=max_concurrent_jobs,
                volume_gib=volume_gib,
                encrypt_traffic=encrypt_traffic,
            )
        )
