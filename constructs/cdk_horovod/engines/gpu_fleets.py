"""What engines have in common whose nodes are instances of a `GpuFleet`: its plan, its permissions, its environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_horovod.engines.engine import EngineTarget, FleetConfig
from cdk_horovod.engines.image_fit import check_image_fits
from cdk_horovod.engines.provider_words import ProviderWords
from cdk_horovod.engines.user_data import REGION
from cdk_horovod.fleet.capacity_attempt import smallest_first
from cdk_horovod.fleet.capacity_plan import PlannedAttempt
from cdk_horovod.fleet.gpu_fleet import GpuFleet
from cdk_horovod.fleet.scaling_group import RESTING_VERSION
from horovod_node import contract

_SERVES = "cdk_horovod:serves"
"""Metadata key of a fleet, whose value is the path of its training."""


def check_fleets(fleets: Sequence[GpuFleet]) -> tuple[GpuFleet, ...]:
    """
    Return the fleets of one engine.

    Raises:
        ValueError: If there is no fleet, or only some of them are Capacity Blocks.
    """
    if not fleets:
        raise ValueError("'fleets' must be at least one, got none")
    if len({fleet.is_block for fleet in fleets}) > 1:
        # The groups of Capacity Blocks are scaled by other calls.
        raise ValueError("'fleets' must all be Capacity Blocks, or none of them, got some of each")
    return tuple(fleets)


def claim(fleet: GpuFleet, *, scope: Construct, target: EngineTarget) -> None:
    """
    Reserve *fleet* for the training in *scope*, because its user data names one ledger and one image.

    Raises:
        ValueError: If the fleet already serves another training, or the image has no code for its GPUs.
    """
    for entry in fleet.node.metadata:
        if entry.type == _SERVES:
            raise ValueError(
                f"'fleet' must serve one training, got {fleet.node.path}, which already serves {entry.data}"
            )
    # Recorded on the fleet, because two engines may have the same fleet.
    fleet.node.add_metadata(_SERVES, scope.node.path)
    check_image_fits(fleet, image=target.image, instance_types=fleet.capacity.instance_types)


def fleet_config(
    fleet: GpuFleet,
    *,
    engine: str,
    words: ProviderWords,
    node_role: iam.IRole,
    node_statements: tuple[iam.PolicyStatement, ...] = (),
    rest: Mapping[str, Any] | None = None,
    resources: Mapping[str, str | Sequence[str]] | None = None,
) -> FleetConfig:
    """
    Describe *fleet* to the workflow, for states that are `GroupStates`.

    Args:
        fleet: The fleet.
        engine: See `FleetConfig`.
        words: See `FleetConfig`.
        node_role: Role of its training containers.
        node_statements: What that role needs for the engine itself.
        rest: Further values for the engine's states in `$fleet.rest`.
        resources: See `FleetConfig`.
    """
    return FleetConfig(
        id=fleet.fleet_id,
        group=fleet.auto_scaling_group_name,
        size=contract.FleetSize(max_gpus=fleet.max_gpus, gpu_step=fleet.gpu_step),
        types={row.name: row.gpus for row in fleet.capacity.instance_types},
        engine=engine,
        words=words,
        node_role=node_role,
        plan=tuple(_as_states_read_it(attempt, fleet=fleet) for attempt in fleet.attempts),
        rest={
            **_launches(fleet),
            "subnets": ",".join(fleet.subnet_ids),
            "unit": fleet.gpus_of_a_unit,
            **(rest or {}),
        },
        node_statements=node_statements,
        auto_scaling_group=fleet.auto_scaling_group_name,
        resources=resources or {},
    )


def node_environment(fleet: GpuFleet, *, engine: str, image_uri: str, target: EngineTarget) -> dict[str, str]:
    """
    Return the environment of the fleet's nodes, which user data writes to `contract.NODE_ENV_FILE`.

    Args:
        fleet: The fleet.
        engine: One of `contract.ENGINES`.
        image_uri: URI of the image.
        target: The training.
    """
    region = Stack.of(fleet).region
    return {
        **target.node_environment(engine=engine, fleet=fleet.fleet_id, image_uri=image_uri),
        REGION: region,
        "AWS_DEFAULT_REGION": region,
        **fleet.node_environment,
    }


def own_termination(fleet: GpuFleet) -> iam.PolicyStatement:
    """Return what the dead-man's switch needs: it terminates its instance, and lowers its group's desired capacity."""
    return iam.PolicyStatement(
        actions=["autoscaling:TerminateInstanceInAutoScalingGroup"], resources=[fleet.auto_scaling_group_arn]
    )


def launch_permissions(fleet: GpuFleet) -> tuple[iam.PolicyStatement, ...]:
    """
    Return the permissions with which the workflow sets the group's launch template.

    Auto Scaling checks whether its caller may launch what the template describes: instances with its role and tags (EC2
    Auto Scaling User Guide, "Control Amazon EC2 launch template usage in Auto Scaling groups").

    Every launch needs permission for the resource `instance`, whose condition key `ec2:LaunchTemplate` names the launch
    template, so that statement alone limits all launches to this template. The statement for the other resources has no
    condition: if one of them did not support the key, nothing could be launched. The Service Authorization Reference
    ("Actions, resources, and condition keys for Amazon EC2") lists the keys by resource.
    """
    stack = Stack.of(fleet)

    def arn(resource: str, *, account: str | None = None, of: str | None = "*") -> str:
        return stack.format_arn(service="ec2", resource=resource, resource_name=of, account=account)

    template = arn("launch-template", of=fleet.launch_template.launch_template_id)
    return (
        iam.PolicyStatement(
            actions=["ec2:RunInstances"],
            resources=[arn("instance")],
            conditions={"ArnEquals": {"ec2:LaunchTemplate": template}},
        ),
        iam.PolicyStatement(
            actions=["ec2:RunInstances"],
            resources=[
                template,
                # The ARNs of images and snapshots have no account.
                arn("image", account=""),
                arn("snapshot", account=""),
                *(
                    arn(kind)
                    for kind in (
                        "capacity-reservation",
                        "network-interface",
                        "placement-group",
                        "security-group",
                        "subnet",
                        "volume",
                    )
                ),
                stack.format_arn(service="resource-groups", resource="group", resource_name="*"),
            ],
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


def _as_states_read_it(attempt: PlannedAttempt, *, fleet: GpuFleet) -> dict[str, Any]:
    """Return an attempt as the run's states read it, see `cdk_horovod.workflow.capacity_search`."""
    return {
        "words": attempt.words,
        "time_limit": None if attempt.time_limit is None else int(attempt.time_limit.to_seconds()),
        "empties": attempt.empties,
        "market": attempt.market,
        "leader_market": fleet.leader_market,
        "base": fleet.on_demand_base_gpus,
        "families": sorted({row.name[0] for row in attempt.instance_types}),
        **_launches(fleet, attempt),
        "subnets": ",".join(attempt.subnets),
    }


def _launches(fleet: GpuFleet, attempt: PlannedAttempt | None = None) -> dict[str, Any]:
    """
    Return what the group launches in an attempt, or at rest if *attempt* is None.

    At rest it has the launch template version of the CloudFormation template, so that a deployment sees no change.
    """
    template = {
        "LaunchTemplateId": fleet.launch_template.launch_template_id,
        "Version": RESTING_VERSION if attempt is None else fleet.launch_template.version_number,
    }
    if fleet.is_block:
        # Auto Scaling accepts Capacity Blocks only in groups without a mixed-instances policy.
        return {"template": template}
    types = fleet.capacity.smallest_first if attempt is None else smallest_first(attempt.instance_types)
    return {
        "policy": {
            "LaunchTemplate": {
                "LaunchTemplateSpecification": template,
                "Overrides": [{"InstanceType": row.name, "WeightedCapacity": str(row.gpus)} for row in types],
            },
            "InstancesDistribution": fleet.instances_distribution(attempt),
        }
    }
