"""A fleet's capacity, counted in GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cdk_horovod.fleet.gpu_types import GpuInstanceType, gpu_instance_type

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_INSTANCE_TYPES: Final = 40
"""Most types in one group. Source: EC2 Auto Scaling API Reference, `LaunchTemplate.Overrides`."""

MAX_NODES: Final = 600
"""
Most nodes of one fleet.

One answer of `DescribeAutoScalingGroups` lists every instance with about 418 bytes, and must fit into the 262,144 bytes
of a state's result (Step Functions Developer Guide, "Quotas"), with some 8 KB for the group itself: 607 nodes at most.
The parameter `IncludeInstances` would shorten it, but it is not documented whether Step Functions knows it, and an
unknown parameter fails the execution without a chance to catch it.
"""


@dataclass(frozen=True, kw_only=True)
class GpuCapacity:
    """
    The capacity of a fleet.

    Args:
        instance_types: Types that the fleet mixes.
        max_gpus: Most GPUs of the fleet.
        on_demand_base_gpus: GPUs that come from On-Demand before any come from Spot.
    """

    instance_types: tuple[GpuInstanceType, ...]
    max_gpus: int
    on_demand_base_gpus: int

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        *,
        max_gpus: int,
        on_demand_base_gpus: int = 0,
        allow_heterogeneous_gpus: bool = False,
    ) -> GpuCapacity:
        """
        Look up the types, and check the capacity.

        Args:
            names: Names of the instance types.
            max_gpus: See the class.
            on_demand_base_gpus: See the class.
            allow_heterogeneous_gpus: Whether the types may have different GPU models. The slowest GPU then sets the
                pace of the ring, and a batch must fit into the smallest GPU's memory.

        Raises:
            ValueError: If such a fleet cannot work; the message names the argument and the value.
        """
        capacity = cls(instance_types=_look_up(names), max_gpus=max_gpus, on_demand_base_gpus=on_demand_base_gpus)
        models = {row.gpu: row for row in capacity.instance_types}
        if len(models) > 1 and not allow_heterogeneous_gpus:
            shown = ", ".join(f"{gpu} in {row.name}" for gpu, row in models.items())
            raise ValueError(
                "'instance_types' must have one GPU model, because the slowest GPU sets the pace of the whole ring; "
                f"set 'allow_heterogeneous_gpus' to accept that, got {shown}"
            )
        capacity._check_max_gpus()
        capacity._check_on_demand_base()
        return capacity

    @property
    def gpu_step(self) -> int:
        """
        GPUs of the smallest type: a fleet grows and shrinks in multiples of it.

        Every type in the table has 1, 4 or 8 GPUs, so every weight is a multiple of the smallest.
        """
        return min(row.gpus for row in self.instance_types)

    @property
    def smallest_first(self) -> tuple[GpuInstanceType, ...]:
        """The types in the order in which On-Demand nodes are launched."""
        return smallest_first(self.instance_types)

    @property
    def largest_weight(self) -> int:
        """GPUs of the largest type."""
        return max(row.gpus for row in self.instance_types)

    @property
    def max_nodes(self) -> int:
        """Number of nodes if every node is of the smallest type."""
        return self.max_gpus // self.gpu_step

    def refuse_types_without_driver(self) -> None:
        """
        Refuse types with GPUs that the drivers in current Deep Learning AMIs do not support.

        Raises:
            ValueError: If there are any; the message names them.
        """
        names = [row.name for row in self.instance_types if not row.deep_learning_ami]
        if names:
            raise ValueError(
                f"'machine_image' must be given for {', '.join(names)}, because current Deep Learning AMIs have no "
                "driver for its GPUs"
            )

    def _check_max_gpus(self) -> None:
        max_gpus = self.max_gpus
        if not _is_whole(max_gpus):
            raise ValueError(f"'max_gpus' must be a whole number known when the app is synthesised, got {max_gpus!r}")
        if max_gpus < self.largest_weight:
            raise ValueError(f"'max_gpus' must be at least {self.largest_weight}, the largest weight, got {max_gpus}")
        if max_gpus % self.gpu_step:
            raise ValueError(
                f"'max_gpus' must be a multiple of {self.gpu_step}, the GPUs of the smallest type, got {max_gpus}"
            )
        if self.max_nodes > MAX_NODES:
            raise ValueError(
                f"'max_gpus' must be at most {MAX_NODES * self.gpu_step}, which is {MAX_NODES} nodes of the smallest "
                f"type, got {max_gpus}; use larger types"
            )

    def _check_on_demand_base(self) -> None:
        base = self.on_demand_base_gpus
        if not _is_whole(base) or base < 0:
            raise ValueError(f"'on_demand_base_gpus' must be a whole number from 0, got {base!r}")
        if base > self.max_gpus:
            raise ValueError(f"'on_demand_base_gpus' must be at most {self.max_gpus}, 'max_gpus', got {base}")
        if base % self.gpu_step:
            raise ValueError(
                f"'on_demand_base_gpus' must be a multiple of {self.gpu_step}, the GPUs of the smallest type, "
                f"got {base}"
            )


def smallest_first(types: Sequence[GpuInstanceType]) -> tuple[GpuInstanceType, ...]:
    """
    Sort *types* by their number of GPUs; types of the same size keep their order.

    On-Demand nodes are launched in this order. If the price of a GPU decided, a base of 1 GPU would become a node of 4
    (g5.12xlarge costs 5.67 USD an hour for 4 GPUs, g5.4xlarge 1.62 USD for 1).
    """
    return tuple(sorted(types, key=lambda row: row.gpus))


def _look_up(names: Sequence[str]) -> tuple[GpuInstanceType, ...]:
    if isinstance(names, str):
        raise ValueError(f"'instance_types' must be a list of names, got the name '{names}'")
    if not names:
        raise ValueError("'instance_types' must hold at least one type, got none")
    if len(names) > MAX_INSTANCE_TYPES:
        raise ValueError(f"'instance_types' must hold at most {MAX_INSTANCE_TYPES} types, got {len(names)}")
    twice = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if twice:
        raise ValueError(f"'instance_types' must hold each type once, got {', '.join(twice)} more than once")
    return tuple(gpu_instance_type(name) for name in names)


def _is_whole(value: object) -> bool:
    """Whether *value* is a whole number: not a CDK token, which is a float, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)
