"""When a node's machine booted and pulled the image, and in which container its agent is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class BootFacts:
    """
    Facts about the time before the agent started, for the receipt. All are optional, so that none can fail a run.

    Args:
        booted_at: Epoch seconds at which the machine's kernel started. Default: unknown.
        pull_began_at: Epoch seconds at which the image's pull began. Default: unknown.
        pulled_at: Epoch seconds at which the image's pull ended. Default: unknown.
        image: The image that the container runs. Default: unknown.
        container: Id of the ECS task, or name of the SageMaker job, that the container belongs to. Default: neither.
    """

    booted_at: float | None = None
    pull_began_at: float | None = None
    pulled_at: float | None = None
    image: str = ""
    container: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> BootFacts:
        """Read the variables that the boot script wrote; an invalid time is ignored."""
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
