"""Elastic Fabric Adapters in a launch template."""

from __future__ import annotations

import pytest

from cdk_horovod.fleet.efa import common_efa_interfaces, network_interfaces
from cdk_horovod.fleet.gpu_types import gpu_instance_type


def test_counts_the_adapters_that_all_types_have() -> None:
    """Types with the same number of adapters share a launch template."""
    types = [gpu_instance_type(name) for name in ("p4d.24xlarge", "p4de.24xlarge")]
    assert common_efa_interfaces(types) == 4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["g5.48xlarge", "g5.xlarge"], "'efa' must be off, .*, got g5.xlarge, which have none"),
        (["p4d.24xlarge", "p5.48xlarge"], "'efa' must be off, .*, got 4 in p4d.24xlarge, 32 in p5.48xlarge; make"),
    ],
)
def test_fails_when_types_need_different_launch_templates(names: list[str], message: str) -> None:
    """A launch template fits one number of adapters."""
    with pytest.raises(ValueError, match=message):
        common_efa_interfaces([gpu_instance_type(name) for name in names])


def test_lists_one_address_and_every_adapter() -> None:
    """The first card carries the address and an adapter, each further card an adapter only."""
    # WHEN
    interfaces = network_interfaces(3, security_group_id="sg-1")

    # THEN
    assert [(each["NetworkCardIndex"], each["DeviceIndex"], each["InterfaceType"]) for each in interfaces] == [
        (0, 0, "interface"),
        (0, 1, "efa-only"),
        (1, 0, "efa-only"),
        (2, 0, "efa-only"),
    ]
    assert all(each["Groups"] == ["sg-1"] and each["DeleteOnTermination"] for each in interfaces)
