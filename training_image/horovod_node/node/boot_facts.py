"""How a node's machine came up, as its boot script tells the agent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class BootFacts:
    """
    What is known of the time before the agent; for people and for the receipt, so that nothing fails without it.

    Args:
        booted_at: Epoch seconds at which the machine's kernel started. Default: not known.
        pull_began_at: Epoch seconds at which the image's pull began. Default: not known.
        pulled_at: Epoch seconds at which the image was there. Default: not known.
        image: The image that the container runs. Default: not known.
    """

    booted_at: float | None = None
    pull_began_at: float | None = None
    pulled_at: float | None = None
    image: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> BootFacts:
        """Read what the boot script wrote; what is no time is left out."""
        return cls(
            booted_at=_time(environment, contract.ENV_BOOTED_AT),
            pull_began_at=_time(environment, contract.ENV_PULL_BEGAN_AT),
            pulled_at=_time(environment, contract.ENV_PULLED_AT),
            image=environment.get(contract.ENV_IMAGE, ""),
        )


def _time(environment: Mapping[str, str], name: str) -> float | None:
    try:
        seconds = float(environment.get(name, ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
