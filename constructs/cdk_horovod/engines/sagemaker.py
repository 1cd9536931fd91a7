"""The engine whose nodes are the containers of SageMaker training jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aws_cdk import Duration, Stack
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from cdk_horovod.asl.states import jsonata
from cdk_horovod.engines.engine import EngineConfig, EngineTarget, FleetConfig
from cdk_horovod.engines.image_fit import check_image_fits
from cdk_horovod.engines.provider_words import ProviderWords
from cdk_horovod.engines.training_job_permissions import JOB_READS, SCRATCH_PREFIX, job_role, permit_jobs
from cdk_horovod.engines.training_job_states import MOST_RUNTIME_SECONDS, QUOTA_REACHED, TrainingJobStates
from cdk_horovod.fleet.capacity_attempt import GpuCapacity
from cdk_horovod.fleet.capacity_plan import MARKET_WORDS, MAX_ATTEMPTS, CapacityAttempt, CapacityPlan
from cdk_horovod.fleet.gpu_types import GpuInstanceType
from cdk_horovod.fleet.zones import select_subnets
from horovod_node import contract

LOOK_INTERVAL: Final = Duration.minutes(1)
SPOT_TIME_LIMIT: Final = Duration.minutes(15)
MOST_JOBS: Final = 10
"""Most concurrent jobs of one engine: each adds a role, and its plan to the run's variables."""
NOT_OF_SAGEMAKER: Final = frozenset({"g4dn.metal", "gr6.4xlarge", "gr6.8xlarge"})
"""Types of fleets that SageMaker has not for training (`TrainingInstanceType` in botocore's model); a test compares."""


@dataclass(frozen=True, kw_only=True)
class SageMakerOptions:
    """
    What `Engine.sagemaker` was given, checked.

    Args:
        capacity: Types, without SageMaker's prefix, and GPUs of one job.
        attempts: The plan's attempts, each with one type.
        vpc: Network of the jobs. Default: SageMaker's own.
        vpc_subnets: Which of its subnets.
        max_concurrent_jobs: Most jobs at a time.
        volume_gib: Size of the volume of an instance without local disks.
        encrypt_traffic: Whether SageMaker encrypts the traffic between the containers of a job.
    """

    capacity: GpuCapacity
    attempts: tuple[tuple[CapacityAttempt, GpuInstanceType], ...]
    vpc: ec2.IVpc | None
    vpc_subnets: ec2.SubnetSelection | None
    max_concurrent_jobs: int
    volume_gib: int
    encrypt_traffic: bool


class SageMakerEngine:
    """
    Runs nodes as the containers of SageMaker training jobs: one job for each attempt of a run.

    Binding creates a role for each concurrent job and, in a VPC, a security group in which only the jobs reach each
    other.

    Args:
        options: What the jobs are.
    """

    def __init__(self, *, options: SageMakerOptions) -> None:
        self._options = options
        self._bound = False

    def bind(self, scope: Construct, target: EngineTarget) -> EngineConfig:
        """
        Create roles and security group, and build the states that start and stop jobs.

        Raises:
            ValueError: If the engine already serves another training, the image has no code for the GPUs, or a job
                would end before the longest run of the training does.
        """
        if self._bound:
            raise ValueError("'engine' must serve one training; call Engine.sagemaker once for each training")
        self._bound = True
        self._refuse_longer_runs(target)
        options, stack = self._options, Stack.of(scope)
        check_image_fits(scope, image=target.image, instance_types=options.capacity.instance_types)
        image = target.image.bind(scope)
        network = self._network(scope)
        prefix = _prefix(scope)
        jobs = stack.format_arn(service="sagemaker", resource="training-job", resource_name=f"{prefix}-*")
        roles = [
            job_role(scope, number=number, target=target, in_vpc=bool(network))
            for number in range(1, options.max_concurrent_jobs + 1)
        ]
        for role in roles:
            image.grant_pull(role)
        settings = {
            "AlgorithmSpecification": {"TrainingImage": image.uri, "TrainingInputMode": "File"},
            "OutputDataConfig": {"S3OutputPath": f"s3://{target.storage.model_bucket.bucket_name}/{SCRATCH_PREFIX}"},
            "ResourceConfig": {"VolumeSizeInGB": options.volume_gib},
            "EnableInterContainerTrafficEncryption": options.encrypt_traffic,
            **({"VpcConfig": network} if network else {}),
        }
        environment = target.node_environment(
            engine=contract.ENGINE_SAGEMAKER, fleet=jsonata("$fleet.id"), image_uri=image.uri
        )
        statements = permit_jobs(
            jobs=jobs,
            roles=roles,
            types=[_named(row.name) for row in options.capacity.instance_types],
            network=network,
            encrypt_traffic=options.encrypt_traffic,
        )
        return EngineConfig(
            fleets=tuple(
                FleetConfig(
                    id=f"{contract.ENGINE_SAGEMAKER}-{number}",
                    group=f"{prefix}-{number}",
                    size=contract.FleetSize(
                        max_gpus=options.capacity.max_gpus, gpu_step=options.capacity.gpu_step, elastic=False
                    ),
                    types={_named(row.name): row.gpus for row in options.capacity.instance_types},
                    engine="SageMaker",
                    words=self._words(),
                    look_interval=LOOK_INTERVAL,
                    refusals=(QUOTA_REACHED,),
                    node_role=role,
                    plan=tuple(_as_states_read_it(attempt, kind) for attempt, kind in options.attempts),
                    rest={"role": role.role_arn},
                    resources={contract.CONNECTION_JOB_PREFIX: f"{prefix}-{number}-"},
                )
                for number, role in enumerate(roles, start=1)
            ),
            states=TrainingJobStates(
                settings=settings,
                environment=environment,
                jobs=jobs,
                seconds_to_save=int(target.save_timeout.to_seconds()),
            ),
            reads_by_resource={jobs: JOB_READS},
            statements=statements,
            wildcards={jobs: "A job has the name of its run, which is not known at synthesis."},
        )

    def _refuse_longer_runs(self, target: EngineTarget) -> None:
        limits = [attempt.time_limit or target.start_timeout for attempt, _ in self._options.attempts]
        around = max(limit.to_seconds() for limit in limits) + target.save_timeout.to_seconds()
        most, asked = Duration.seconds(MOST_RUNTIME_SECONDS - around), target.max_runtime
        if asked.to_seconds() > most.to_seconds():
            raise ValueError(
                f"'max_runtime' must be at most {most.to_human_string()} on SageMaker, which ends every job, start and "
                f"save included, after {Duration.seconds(MOST_RUNTIME_SECONDS).to_human_string()}, got "
                f"{asked.to_human_string()}; use Engine.ec2 or Engine.ecs for longer runs"
            )

    def _network(self, scope: Construct) -> dict[str, Any]:
        """Return `VpcConfig` of the jobs; empty without a VPC."""
        vpc = self._options.vpc
        if vpc is None:
            return {}
        group = ec2.SecurityGroup(
            scope, "JobSecurityGroup", vpc=vpc, description="Containers of training jobs, which reach each other"
        )
        # Traffic encryption needs IPsec's UDP 500 and protocol 50 as well, which this rule includes.
        group.add_ingress_rule(group, ec2.Port.all_traffic(), "Containers of the same job")
        subnets = select_subnets(vpc, self._options.vpc_subnets)
        return {"Subnets": subnets.subnet_ids, "SecurityGroupIds": [group.security_group_id]}

    def _words(self) -> ProviderWords:
        names = [_named(row.name) for row in self._options.capacity.instance_types]
        return ProviderWords(
            service="SageMaker",
            provider="SageMaker",
            spot_quota="for spot training job usage|spot instances across all training jobs",
            on_demand_quota="for training job usage|instances across all training jobs",
            no_capacity="CapacityError|[Ii]nsufficient capacity|MaxWaitTimeExceeded",
            throttled="ThrottlingException|Rate exceeded",
            quotas={
                contract.SPOT: {name: f"'{name} for spot training job usage'" for name in names},
                contract.ON_DEMAND: {name: f"'{name} for training job usage'" for name in names},
            },
        )


def check_options(
    *,
    instance_types: Sequence[str],
    max_gpus: int,
    capacity_plan: CapacityPlan | None,
    vpc: ec2.IVpc | None,
    vpc_subnets: ec2.SubnetSelection | None,
    max_concurrent_jobs: int,
    volume_gib: int,
    encrypt_traffic: bool,
) -> SageMakerOptions:
    """
    Check the arguments of `Engine.sagemaker`.

    Raises:
        ValueError: If jobs could not run like this; the message names the argument, the value, and what to do.
    """
    prefix = contract.SAGEMAKER_PREFIX
    if not isinstance(instance_types, str):
        plain = [name for name in instance_types if not name.startswith(prefix)]
        if plain:
            raise ValueError(f"'instance_types' must be SageMaker's, such as {prefix}{plain[0]}, got {plain[0]}")
        lacking = [name for name in instance_types if name.removeprefix(prefix) in NOT_OF_SAGEMAKER]
        if lacking:
            raise ValueError(f"'instance_types' must be types that SageMaker trains on, got {', '.join(lacking)}")
        instance_types = [name.removeprefix(prefix) for name in instance_types]
    capacity = GpuCapacity.of(instance_types, max_gpus=max_gpus)
    if vpc_subnets is not None and vpc is None:
        raise ValueError("'vpc_subnets' must be given together with 'vpc', got it alone")
    for name, value, least, most in (
        ("max_concurrent_jobs", max_concurrent_jobs, 1, MOST_JOBS),
        # SageMaker API Reference, `ResourceConfig`; 16 TiB is the largest gp2 volume.
        ("volume_gib", volume_gib, 1, 16_384),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"'{name}' must be a whole number from {least} to {most}, got {value!r}")
    return SageMakerOptions(
        capacity=capacity,
        attempts=tuple(_attempts(capacity_plan or _default_plan(), capacity=capacity)),
        vpc=vpc,
        vpc_subnets=vpc_subnets,
        max_concurrent_jobs=max_concurrent_jobs,
        volume_gib=volume_gib,
        encrypt_traffic=encrypt_traffic,
    )


def _default_plan() -> CapacityPlan:
    return CapacityPlan.attempts(
        [
            CapacityAttempt(market=contract.SPOT, time_limit=SPOT_TIME_LIMIT),
            CapacityAttempt(market=contract.ON_DEMAND),
        ]
    )


def _attempts(plan: CapacityPlan, *, capacity: GpuCapacity) -> list[tuple[CapacityAttempt, GpuInstanceType]]:
    """Return one attempt for each step of the plan and each type, because a job has one type."""
    rows = {row.name: row for row in capacity.instance_types}
    found = []
    for step in plan.steps:
        if step.zones is not None or step.zone_by_zone:
            raise ValueError(
                "'capacity_plan' must have attempts without zones, because SageMaker chooses the zone of a job; "
                "give 'vpc' and 'vpc_subnets' to limit its choice"
            )
        names = [
            name.removeprefix(contract.SAGEMAKER_PREFIX)
            for name in (rows if step.instance_types is None else step.instance_types)
        ]
        unknown = [name for name in names if name not in rows]
        if unknown:
            raise ValueError(
                f"'instance_types' of an attempt must be among the engine's, {', '.join(map(_named, rows))}, "
                f"got {', '.join(map(_named, unknown))}"
            )
        found += [(step, rows[name]) for name in names]
    if len(found) > MAX_ATTEMPTS:
        raise ValueError(
            f"'capacity_plan' must be at most {MAX_ATTEMPTS} attempts, each type counted, got {len(found)}"
        )
    if min(kind.gpus for _, kind in found) != capacity.gpu_step:
        raise ValueError(
            f"'capacity_plan' must have an attempt with a type of {capacity.gpu_step} GPUs, the smallest, so that it "
            "fits every run"
        )
    return found


def _as_states_read_it(attempt: CapacityAttempt, kind: GpuInstanceType) -> dict[str, Any]:
    """Return an attempt as the run's states read it, see `cdk_horovod.workflow.capacity_search`."""
    return {
        "words": f"{MARKET_WORDS[attempt.market]} {_named(kind.name)}",
        "time_limit": None if attempt.time_limit is None else int(attempt.time_limit.to_seconds()),
        # A job cannot take over the instances of another one.
        "empties": True,
        "market": attempt.market,
        # All instances of a job are of one market.
        "leader_market": attempt.market,
        "base": 0,
        # SageMaker's quotas are by type.
        "families": [_named(kind.name)],
        "instance_type": _named(kind.name),
        "node_gpus": kind.gpus,
    }


def _named(name: str) -> str:
    return f"{contract.SAGEMAKER_PREFIX}{name}"


def _prefix(scope: Construct) -> str:
    """Return what begins the names of all jobs of a training: at most 23 characters, unique in account and Region."""
    stack = Stack.of(scope)
    path = f"{stack.stack_name}/{scope.node.path}"
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    word = "".join(letter for letter in scope.node.id.lower() if letter.isascii() and letter.isalnum())
    return f"{word[:14] or 'training'}-{digest}"
