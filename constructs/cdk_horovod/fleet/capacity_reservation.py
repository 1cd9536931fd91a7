"""Capacity Reservations and Capacity Blocks that a fleet launches into."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aws_cdk import Token
from aws_cdk import aws_autoscaling as autoscaling

if TYPE_CHECKING:
    from cdk_horovod.fleet.capacity_attempt import GpuCapacity

_ID = r"cr-[0-9a-f]+"


@dataclass(frozen=True, kw_only=True)
class CapacityReservation:
    """
    The reserved capacity of a fleet. Made by `on_demand` or `block`.

    Args:
        ids: Ids of Capacity Reservations.
        resource_group_arn: ARN of a resource group of Capacity Reservations.
        only: Whether nodes are launched only into the reservation.
        is_block: Whether it is a Capacity Block.
    """

    ids: tuple[str, ...]
    resource_group_arn: str | None
    only: bool
    is_block: bool

    @classmethod
    def on_demand(
        cls, *, ids: Sequence[str] = (), resource_group_arn: str | None = None, only: bool = True
    ) -> CapacityReservation:
        """
        Use On-Demand Capacity Reservations, given by their ids or as a resource group.

        Args:
            ids: Ids of Capacity Reservations, such as `cr-0123456789abcdef0`.
            resource_group_arn: ARN of a resource group of Capacity Reservations.
            only: Whether nodes are launched only into them. If False, On-Demand nodes use them first, and other
                capacity when they are full. Default: True.

        Raises:
            ValueError: If neither or both are given, or an id is not of a Capacity Reservation.
        """
        if isinstance(ids, str):
            raise ValueError(f"'ids' must be a list of ids, got the id '{ids}'")
        if bool(ids) == (resource_group_arn is not None):
            raise ValueError("'ids' or 'resource_group_arn' must be given, and not both, got " + _shown(ids))
        _check(ids, "ids")
        return cls(ids=tuple(ids), resource_group_arn=resource_group_arn, only=only, is_block=False)

    @classmethod
    def block(cls, id: str) -> CapacityReservation:
        """
        Use a Capacity Block for ML.

        EC2 terminates its instances 30 minutes before its end: give runs a `max_runtime` that ends earlier. A Capacity
        Block is paid in advance, but a run's cost ceiling still counts its nodes at their On-Demand price.

        Args:
            id: Id of its reservation, such as `cr-0123456789abcdef0`.

        Raises:
            ValueError: If it is not the id of a Capacity Reservation.
        """
        _check([id], "id")
        return cls(ids=(id,), resource_group_arn=None, only=True, is_block=True)

    def check(self, capacity: GpuCapacity, *, spot: bool, zones: int) -> None:
        """
        Refuse a fleet that cannot use this reservation.

        Args:
            capacity: The fleet's capacity.
            spot: Whether the fleet may use Spot.
            zones: Number of the fleet's zones.

        Raises:
            ValueError: If it cannot use it; the message names the argument and the value.
        """
        if self.only and spot:
            raise ValueError("'spot' must be off with a 'capacity_reservation' that is the only capacity, got on")
        if not self.is_block:
            return
        if len(capacity.instance_types) > 1:
            shown = ", ".join(row.name for row in capacity.instance_types)
            raise ValueError(f"'instance_types' must be the one type of the Capacity Block, got {shown}")
        if zones > 1:
            raise ValueError(f"'vpc_subnets' must be in the one zone of the Capacity Block, got {zones} zones")

    def group_specification(self) -> autoscaling.CfnAutoScalingGroup.CapacityReservationSpecificationProperty:
        """Return it as a property of the group, which supports several reservations and mixed instance types."""
        return autoscaling.CfnAutoScalingGroup.CapacityReservationSpecificationProperty(
            capacity_reservation_preference=f"capacity-reservations-{'only' if self.only else 'first'}",
            capacity_reservation_target=autoscaling.CfnAutoScalingGroup.CapacityReservationTargetProperty(
                capacity_reservation_ids=list(self.ids) or None,
                capacity_reservation_resource_group_arns=(
                    None if self.resource_group_arn is None else [self.resource_group_arn]
                ),
            ),
        )

    def template_data(self) -> dict[str, Any]:
        """Return a Capacity Block as launch template data, the only place where EC2 accepts it."""
        return {
            "InstanceMarketOptions": {"MarketType": "capacity-block"},
            "CapacityReservationSpecification": {"CapacityReservationTarget": {"CapacityReservationId": self.ids[0]}},
        }


def _check(ids: Sequence[str], name: str) -> None:
    for id in ids:
        if not Token.is_unresolved(id) and not re.fullmatch(_ID, id):
            raise ValueError(f"'{name}' must be of Capacity Reservations, like cr-0123456789abcdef0, got {id}")


def _shown(ids: Sequence[str]) -> str:
    return "both" if ids else "neither"
