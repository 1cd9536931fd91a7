"""Faults that a test or a demonstration can put into the local cloud; by default there are none."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from horovod_local.errors import LocalCloudError

MARKETS: Final = ("on-demand", "spot")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """
    Capacity that EC2 does not have: a launch that matches every field given fails.

    Args:
        instance_type: Such as `g5.xlarge`. Default: every type.
        market: `on-demand` or `spot`. Default: both.
        zone: Such as `eu-west-1a`. Default: every zone.

    Raises:
        LocalCloudError: If *market* is neither of the two.
    """

    instance_type: str | None = None
    market: str | None = None
    zone: str | None = None

    def __post_init__(self) -> None:
        if self.market not in (None, *MARKETS):
            raise LocalCloudError(f"'market' must be one of {', '.join(MARKETS)}, got {self.market}")

    def matches(self, *, instance_type: str, market: str, zone: str) -> bool:
        """Whether a launch of this kind is refused."""
        wanted = {"instance_type": instance_type, "market": market, "zone": zone}
        return all(value is None or wanted[name] == value for name, value in asdict(self).items())


@dataclass(frozen=True, kw_only=True)
class Faults:
    """
    What goes wrong from now on.

    Args:
        launch_delay_seconds: How long an instance stays pending before it is in service. Default: not at all.
        refused: Capacity that there is none of. Default: there is enough of everything.

    Raises:
        LocalCloudError: If *launch_delay_seconds* is negative.
    """

    launch_delay_seconds: float = 0
    refused: tuple[Refusal, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.launch_delay_seconds < 0:
            raise LocalCloudError(f"'launch_delay_seconds' must be at least 0, got {self.launch_delay_seconds}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Faults:
        """
        Read the faults from their JSON form.

        Raises:
            LocalCloudError: If a key is unknown.
        """
        known = [item.name for item in fields(cls)]
        for name in value:
            if name not in known:
                raise LocalCloudError(f"'{name}' is not a fault; faults are {', '.join(known)}")
        refused = []
        for refusal in value.get("refused", ()):
            unknown = set(refusal) - {item.name for item in fields(Refusal)}
            if unknown:
                raise LocalCloudError(f"'refused' has no field {', '.join(sorted(unknown))}")
            refused.append(Refusal(**refusal))
        return cls(launch_delay_seconds=float(value.get("launch_delay_seconds", 0)), refused=tuple(refused))

    def to_json(self) -> dict[str, Any]:
        """Write the faults as `from_json` reads them."""
        return asdict(self)


class FaultBox:
    """Holds the faults in force, for the corrections that act them and the request that sets them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults = Faults()

    @property
    def faults(self) -> Faults:
        """The faults in force."""
        with self._lock:
            return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._lock:
            self._faults = faults


IN_FORCE: Final = FaultBox()
"""One server process is one cloud, as moto's own state is; so is this."""
