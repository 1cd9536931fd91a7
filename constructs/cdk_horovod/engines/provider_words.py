"""What a provider of nodes says when it starts none: quota, lack of capacity, throttling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class ProviderWords:
    """
    How the messages of a provider are read, and who is named when they are repeated.

    Args:
        service: Who was asked for nodes.
        provider: Who says why there are none.
        spot_quota: Pattern of messages that a quota of Spot was reached.
        on_demand_quota: Pattern of messages that a quota of On-Demand was reached.
        no_capacity: Pattern of messages that capacity is lacking.
        throttled: Pattern of messages that calls were too frequent.
        quotas: Codes and names of quotas in Service Quotas, by market and by the first letter of an instance type.
    """

    service: str
    provider: str
    spot_quota: str
    on_demand_quota: str
    no_capacity: str
    throttled: str
    quotas: Mapping[str, Mapping[str, str]]


AUTO_SCALING_WORDS: Final = ProviderWords(
    service="Auto Scaling",
    provider="EC2",
    spot_quota="MaxSpotInstanceCountExceeded|[Mm]ax spot instance count exceeded",
    on_demand_quota=(
        "VcpuLimitExceeded|InstanceLimitExceeded|than your current vCPU limit|instance.s. are already running"
    ),
    no_capacity=(
        "InsufficientInstanceCapacity|InsufficientReservedInstanceCapacity|ReservationCapacityExceeded"
        "|UnfulfillableCapacity|no Spot capacity available|do not have sufficient"
    ),
    throttled="RequestLimitExceeded|Request limit exceeded|Throttling|Rate exceeded",
    quotas={
        contract.SPOT: {
            "g": "L-3819A6DF (All G and VT Spot Instance Requests)",
            "p": "L-7212CCBC (All P4, P3 and P2 Spot Instance Requests; newer ones have their own)",
        },
        contract.ON_DEMAND: {
            "g": "L-DB2E81BA (Running On-Demand G and VT instances)",
            "p": "L-417A185B (Running On-Demand P instances)",
        },
    },
)
"""
Patterns of the StatusMessages of scaling activities; the quotas count vCPUs.

Sources: EC2 Auto Scaling User Guide, "Troubleshoot EC2 Auto Scaling: EC2 instance launch failures"; EC2 API Reference,
"Error codes".
"""

ECS_WORDS: Final = replace(AUTO_SCALING_WORDS, service="AWS", provider="AWS")
"""Words of Auto Scaling and of ECS together; each message of ECS begins with its name."""
