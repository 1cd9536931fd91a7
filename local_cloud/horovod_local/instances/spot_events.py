"""
EventBridge events of Spot interruptions.

Source: EC2 User Guide, "Spot Instance interruption notices" and "EC2 instance rebalance recommendations".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from horovod_local.instances.machine import Machine

_log = logging.getLogger(__name__)


def emit_interruption_warning(machine: Machine) -> None:
    """Emit the event that the instance will be interrupted."""
    _emit(machine, "EC2 Spot Instance Interruption Warning", {"instance-action": "terminate"})


def emit_rebalance_recommendation(machine: Machine) -> None:
    """Emit the event of a rebalance recommendation."""
    _emit(machine, "EC2 Instance Rebalance Recommendation", {})


def _emit(machine: Machine, kind: str, detail: Mapping[str, str]) -> None:
    from moto.events.models import events_backends

    instance = machine.facts
    event = {
        "Source": "aws.ec2",
        "DetailType": kind,
        # In place of Region and account this ARN has the Availability Zone.
        "Resources": [f"arn:aws:ec2:{instance.zone}:instance/{instance.instance_id}"],
        "Detail": json.dumps({"instance-id": instance.instance_id, **detail}),
    }
    try:
        events_backends[machine.account][machine.region].put_events([event])
    except Exception:
        # A failed delivery must not affect the instance.
        _log.exception("the event %s of %s was not delivered", kind, instance.instance_id)
