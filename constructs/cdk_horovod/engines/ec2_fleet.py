"""The default engine: mixed Spot and On-Demand Auto Scaling groups that rest at zero."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from cdk_horovod.engines.engine import EngineConfig, EngineTarget
from cdk_horovod.engines.gpu_fleets import (
    check_fleets,
    claim,
    fleet_config,
    launch_permissions,
    node_environment,
    own_termination,
)
from cdk_horovod.engines.group_states import AUTO_SCALING_READS, GroupStates
from cdk_horovod.engines.provider_words import AUTO_SCALING_WORDS
from cdk_horovod.engines.user_data import node_user_data
from cdk_horovod.fleet.gpu_fleet import GpuFleet
from cdk_horovod.fleet.machine_image import DEEP_LEARNING_AMI
from horovod_node import contract


class Ec2FleetEngine:
    """
    Runs nodes as instances of a `GpuFleet`.

    Binding adds to each fleet's user data: the nodes' environment, the dead-man's switch, the start of the container.
    A fleet without a machine image of its own gets the newest Deep Learning Base GPU AMI at each deployment.

    Args:
        fleets: The fleets, in the order in which a run tries them. A fleet can serve only one training, because its
            user data names one ledger and one image.

    Raises:
        ValueError: If there is no fleet, or only some of them are Capacity Blocks.
    """

    def __init__(self, *, fleets: Sequence[GpuFleet]) -> None:
        self._fleets = check_fleets(fleets)

    def bind(self, scope: Construct, target: EngineTarget) -> EngineConfig:
        """
        Complete the fleets' user data and build the states that scale them.

        Raises:
            ValueError: If a fleet already serves another training, the image has no code for its GPUs, or the machine
                image no driver.
        """
        image = target.image.bind(scope)
        for fleet in self._fleets:
            claim(fleet, scope=scope, target=target)
            if fleet.chosen_image is not None:
                fleet.capacity.refuse_types_without_driver()
                fleet.chosen_image.choose(ec2.MachineImage.from_ssm_parameter(DEEP_LEARNING_AMI))
            image.grant_pull(fleet.role)
            fleet.user_data.add_commands(
                *node_user_data(
                    image_uri=image.uri,
                    environment=node_environment(fleet, engine=contract.ENGINE_EC2, image_uri=image.uri, target=target),
                    log_group_name=target.node_log_group.log_group_name,
                )
            )
        return EngineConfig(
            fleets=tuple(
                fleet_config(fleet, engine="EC2", node_role=fleet.role, node_statements=(own_termination(fleet),))
                for fleet in self._fleets
            ),
            states=GroupStates(
                arns=[fleet.auto_scaling_group_arn for fleet in self._fleets],
                blocks=self._fleets[0].is_block,
            ),
            words=AUTO_SCALING_WORDS,
            reads=AUTO_SCALING_READS,
            statements=tuple(statement for fleet in self._fleets for statement in launch_permissions(fleet)),
        )
