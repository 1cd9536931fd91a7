"""
What moto does otherwise than AWS, corrected one deviation at a time.

Each `Correction` names the deviation that it removes; `tests/local/emulation` holds one contract test for each, written
against AWS's documented behaviour. They change moto's classes in this process, for good, and are written against one
release of moto: `apply` refuses any other.
"""

from __future__ import annotations

import importlib.metadata
from typing import Final

from horovod_local.corrections import (
    autoscaling,
    change_sets,
    dynamodb,
    events,
    metrics,
    permissions,
    prices,
    resources,
    scaling_requests,
    templates,
)
from horovod_local.corrections.registry import Correction
from horovod_local.corrections.step_functions import executions, express, jsonata, limits, state_tests, tasks, tokens
from horovod_local.errors import LocalCloudError

MOTO_VERSION: Final = "5.2.5"
"""The release that the corrections are written against; the distribution's extra `local` pins the same."""

ALL: Final[tuple[Correction, ...]] = (
    *templates.CORRECTIONS,
    *change_sets.CORRECTIONS,
    *resources.CORRECTIONS,
    *dynamodb.CORRECTIONS,
    *jsonata.CORRECTIONS,
    *tasks.CORRECTIONS,
    *limits.CORRECTIONS,
    *executions.CORRECTIONS,
    *express.CORRECTIONS,
    *tokens.CORRECTIONS,
    *state_tests.CORRECTIONS,
    *events.CORRECTIONS,
    *autoscaling.CORRECTIONS,
    *scaling_requests.CORRECTIONS,
    *metrics.CORRECTIONS,
    *prices.CORRECTIONS,
    *permissions.CORRECTIONS,
)

_applied: list[Correction] = []


def apply() -> tuple[Correction, ...]:
    """
    Install every correction, once a process, before the first request is served.

    Raises:
        LocalCloudError: If another release of moto is installed.
    """
    installed = importlib.metadata.version("moto")
    if installed != MOTO_VERSION:
        raise LocalCloudError(
            f"the local cloud needs moto {MOTO_VERSION}, its corrections are written against it, but {installed} is "
            "installed: pip install 'cdk-horovod[local]'"
        )
    for item in ALL:
        if item not in _applied:
            item.install()
            _applied.append(item)
    return ALL
