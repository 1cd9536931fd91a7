"""
Corrections of moto: each removes one deviation from AWS.

Each `Correction` names its deviation, and has a contract test in `tests/local/emulation`, written against AWS's
documented behaviour. Corrections patch moto's classes in this process for good. They fit one release of moto: `apply`
refuses any other.
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
    resources,
    scaling_requests,
    spot_prices,
    templates,
)
from horovod_local.corrections.ecs import container_instances, services, task_definitions
from horovod_local.corrections.ecs import tasks as ecs_tasks
from horovod_local.corrections.ecs import templates as ecs_templates
from horovod_local.corrections.registry import Correction
from horovod_local.corrections.sagemaker import operations as sagemaker
from horovod_local.corrections.step_functions import executions, express, jsonata, limits, tasks, teststate_api, tokens
from horovod_local.errors import LocalCloudError

MOTO_VERSION: Final = "5.2.5"
"""The release that the corrections are written for; the distribution's extra `local` pins it."""

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
    *teststate_api.CORRECTIONS,
    *events.CORRECTIONS,
    *autoscaling.CORRECTIONS,
    *scaling_requests.CORRECTIONS,
    *metrics.CORRECTIONS,
    *spot_prices.CORRECTIONS,
    *permissions.CORRECTIONS,
    *container_instances.CORRECTIONS,
    *task_definitions.CORRECTIONS,
    *ecs_tasks.CORRECTIONS,
    *services.CORRECTIONS,
    *ecs_templates.CORRECTIONS,
    *sagemaker.CORRECTIONS,
)

_applied: list[Correction] = []


def apply() -> tuple[Correction, ...]:
    """
    Install every correction. Repeated calls do nothing. Call it before the first request is served.

    Raises:
        LocalCloudError: If another release of moto is installed.
    """
    installed = importlib.metadata.version("moto")
    if installed != MOTO_VERSION:
        raise LocalCloudError(
            f"the local cloud needs moto {MOTO_VERSION}, for which its corrections are written, but {installed} is "
            "installed: pip install 'cdk-horovod[local]'"
        )
    for item in ALL:
        if item not in _applied:
            item.install()
            _applied.append(item)
    return ALL
