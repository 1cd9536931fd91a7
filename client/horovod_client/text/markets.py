"""Names of the purchase options of instances, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from horovod_node import contract

MARKET_NAMES: Final[Mapping[str, str]] = {contract.ON_DEMAND: "On-Demand", contract.SPOT: "Spot"}
