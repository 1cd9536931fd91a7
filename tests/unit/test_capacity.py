"""A fleet's capacity in GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from cdk_horovod.fleet.capacity_attempt import GpuCapacity
from cdk_horovod.fleet.gpu_types import GPU_INSTANCE_TYPES


def test_counts_in_gpus() -> None:
    """A fleet's step, largest weight and most nodes follow from the GPUs of its types."""
    # WHEN
    capacity = GpuCapacity.of(["g5.48xlarge", "g5.12xlarge"], max_gpus=32, on_demand_base_gpus=4)

    # THEN
    assert [row.name for row in capacity.instance_types] == ["g5.48xlarge", "g5.12xlarge"]
    assert (capacity.gpu_step, capacity.largest_weight, capacity.max_nodes) == (4, 8, 8)


def test_mixes_models_when_told() -> None:
    """Different GPU models are mixed for a user who accepts the slowest one's pace."""
    # WHEN
    capacity = GpuCapacity.of(["p4d.24xlarge", "p4de.24xlarge"], max_gpus=16, allow_heterogeneous_gpus=True)

    # THEN
    assert capacity.max_nodes == 2


def test_holds_600_nodes() -> None:
    """A fleet may have 600 nodes, as many as its description has room for."""
    assert GpuCapacity.of(["g5.xlarge"], max_gpus=600).max_nodes == 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": []}, "'instance_types' must hold at least one type, got none"),
        ({"names": "g5.xlarge"}, "'instance_types' must be a list of names, got the name 'g5.xlarge'"),
        (
            {"names": list(GPU_INSTANCE_TYPES)[:41]},
            "'instance_types' must hold at most 40 types, got 41",
        ),
        (
            {"names": ["g5.xlarge", "g5.2xlarge", "g5.xlarge"]},
            "'instance_types' must hold each type once, got g5.xlarge more than once",
        ),
        ({"names": ["m5.large"]}, "got 'm5.large'"),
        (
            {"names": ["g5.xlarge", "g6.xlarge"]},
            r"'instance_types' must have one GPU model, .*'allow_heterogeneous_gpus'.*, "
            r"got A10G \(22 GiB\) in g5.xlarge, L4 \(22 GiB\) in g6.xlarge",
        ),
        (
            {"names": ["p4d.24xlarge", "p4de.24xlarge"]},
            r"got A100 \(40 GiB\) in p4d.24xlarge, A100 \(80 GiB\) in p4de.24xlarge",
        ),
        ({"max_gpus": 2}, "'max_gpus' must be at least 4, the largest weight, got 2"),
        ({"max_gpus": 10}, "'max_gpus' must be a multiple of 4, the GPUs of the smallest type, got 10"),
        ({"max_gpus": 16.0}, "'max_gpus' must be a whole number known when the app is synthesised, got 16.0"),
        ({"max_gpus": True}, "'max_gpus' must be a whole number known when the app is synthesised, got True"),
        (
            {"max_gpus": 2404},
            "'max_gpus' must be at most 2400, which is 600 nodes of the smallest type, got 2404; use larger types",
        ),
        ({"on_demand_base_gpus": -4}, "'on_demand_base_gpus' must be a whole number from 0, got -4"),
        ({"on_demand_base_gpus": 0.5}, "'on_demand_base_gpus' must be a whole number from 0, got 0.5"),
        ({"on_demand_base_gpus": 20}, "'on_demand_base_gpus' must be at most 16, 'max_gpus', got 20"),
        (
            {"on_demand_base_gpus": 2},
            "'on_demand_base_gpus' must be a multiple of 4, the GPUs of the smallest type, got 2",
        ),
    ],
)
def test_fails_when_no_such_fleet_can_work(arguments: dict[str, Any], message: str) -> None:
    """The error names the argument, its value and a value that would work."""
    # GIVEN
    fleet = {"names": ["g5.12xlarge"], "max_gpus": 16} | arguments

    # WHEN / THEN
    with pytest.raises(ValueError, match=message):
        GpuCapacity.of(fleet.pop("names"), **fleet)
