"""EventBridge: status events of executions, delivery to targets, disabled rules and schedules."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from horovod_local.corrections.permissions import may_deliver
from horovod_local.corrections.registry import correction
from horovod_local.corrections.step_functions.express import EXPRESS

DETAIL_BYTES: Final = 248 * 1024
"""Largest input or output that a status event includes."""

_OWN_TARGETS: Final = ("states", "sns")
"""Services of targets to which this module delivers; moto delivers to all others."""
_REDRIVE_REASONS: Final = {
    "RUNNING": "Execution is RUNNING and cannot be redriven",
    "SUCCEEDED": "Execution is SUCCEEDED and cannot be redriven",
}

_log = logging.getLogger(__name__)


@correction(
    moto="emits no event when an execution starts or ends",
    aws="emits a Step Functions Execution Status Change for each, from the source aws.states",
)
def executions_emit_status_events() -> None:
    from moto.stepfunctions.parser.api import ExecutionStatus
    from moto.stepfunctions.parser.backend.execution import BaseExecutionWorkerCommunication, Execution

    start = Execution.start
    terminated = BaseExecutionWorkerCommunication.terminated

    def emit_and_start(self: Any) -> None:
        # Emitted before the start: a short execution could otherwise emit its end first.
        self.exec_status = ExecutionStatus.RUNNING
        _emit_status(self)
        start(self)

    def terminate_and_emit(self: Any) -> None:
        was_running = self.execution.status == "RUNNING"
        terminated(self)
        if was_running:
            _emit_status(self.execution)

    Execution.start = emit_and_start
    BaseExecutionWorkerCommunication.terminated = terminate_and_emit


@correction(
    moto="answers PutEvents with 500 when a matching rule has a state machine or a topic as its target",
    aws="starts the state machine or publishes to the topic, with the rule's input",
)
def rules_start_state_machines_and_publish() -> None:
    from moto.events.models import Rule

    send_to_targets = Rule.send_to_targets

    def send(self: Any, original_event: Any, transform_input: bool = True) -> None:
        if not self.event_pattern.matches_event(original_event):
            return
        own = [target for target in self.targets if _service(target) in _OWN_TARGETS]
        for target in own:
            try:
                why_not = may_deliver(self.arn, target, account=self.account_id, region=self.region_name)
                if why_not:
                    _log.error("rule %s did not reach %s: %s", self.name, target["Arn"], why_not)
                    continue
                _deliver(target["Arn"], _body(target, _as_delivered(original_event)))
            except Exception:
                # On AWS, too, a failed delivery affects neither the sender of the event nor other targets.
                _log.exception("rule %s did not reach %s", self.name, target["Arn"])
        # A copy, because another thread may be delivering to this rule's targets.
        others = copy.copy(self)
        others.targets = [target for target in self.targets if target not in own]
        send_to_targets(others, original_event, transform_input)

    Rule.send_to_targets = send


@correction(
    moto="sends events to the targets of a disabled rule",
    aws="sends nothing",
)
def disabled_rules_do_not_fire() -> None:
    from moto.events.models import Rule

    send_to_targets = Rule.send_to_targets

    def send(self: Any, original_event: Any, transform_input: bool = True) -> None:
        if self.state != "DISABLED":
            send_to_targets(self, original_event, transform_input)

    Rule.send_to_targets = send


@correction(
    moto="sends every event to the targets of a rule that has a schedule and no pattern",
    aws="sends only the events of the rule's own schedule",
)
def schedules_take_no_events() -> None:
    from moto.events.models import Rule

    send_to_targets = Rule.send_to_targets

    def send(self: Any, original_event: Any, transform_input: bool = True) -> None:
        scheduled = original_event["detail-type"] == "Scheduled Event" and original_event["resources"] == [self.arn]
        if scheduled or self.event_pattern.get_pattern():
            send_to_targets(self, original_event, transform_input)

    Rule.send_to_targets = send


@correction(
    moto="accepts rules for the events of ECS, which it never sends",
    aws="sends them; here such rules are refused",
)
def rules_for_events_of_ecs_are_refused() -> None:
    from moto.events.exceptions import ValidationException
    from moto.events.models import EventsBackend

    put_rule = EventsBackend.put_rule

    def put(self: Any, name: str, **kwargs: Any) -> Any:
        # A template's pattern is an object, a request's is text.
        pattern = kwargs.get("event_pattern")
        if '"aws.ecs"' in (pattern if isinstance(pattern, str) else json.dumps(pattern)):
            raise ValidationException("the local cloud sends no events of aws.ecs")
        return put_rule(self, name, **kwargs)

    EventsBackend.put_rule = put


def _service(target: dict[str, Any]) -> str:
    return str(target["Arn"].split(":")[2])


def _as_delivered(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event as targets get it: without moto's extra field, and with its time as text."""
    delivered = {name: value for name, value in event.items() if name != "ingestion-time"}
    if isinstance(delivered["time"], int | float):
        moment = datetime.fromtimestamp(delivered["time"], UTC)
        delivered["time"] = moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    return delivered


def _body(target: Mapping[str, Any], event: dict[str, Any]) -> str:
    """Return what *target* receives: its constant input, a part of the event, a filled-in template, or the event."""
    from jsonpath_ng.ext import parse

    def found(path: str) -> Any:
        matches = parse(path).find(event)
        return matches[0].value if matches else ""

    if target.get("Input"):
        return str(target["Input"])
    if target.get("InputPath"):
        return json.dumps(found(target["InputPath"]))
    transformer = target.get("InputTransformer")
    if not transformer:
        return json.dumps(event)
    values = {name: found(path) for name, path in transformer.get("InputPathsMap", {}).items()}
    values["aws.events.event.json"] = event

    def filled(place: re.Match[str]) -> str:
        quote, name = place[1], place[2]
        if name not in values:
            return place[0]
        value = values[name]
        # A text gets quotes, whether its placeholder has them or not; another value in quotes becomes JSON text.
        return json.dumps(value if isinstance(value, str) or not quote else json.dumps(value))

    return re.sub(r'("?)<([A-Za-z0-9_.-]+)>\1', filled, transformer["InputTemplate"])


def _deliver(arn: str, body: str) -> None:
    from moto.sns.models import sns_backends
    from moto.stepfunctions.parser.models import stepfunctions_parser_backends

    _, _, service, region, account, *_ = arn.split(":")
    if service == "states":
        stepfunctions_parser_backends[account][region].start_execution(arn, None, body)
    else:
        sns_backends[account][region].publish(message=body, arn=arn)


def _emit_status(execution: Any) -> None:
    from moto.events.models import events_backends

    if execution.state_machine.type == EXPRESS:
        # Express executions emit no events; on AWS only their log shows their failures.
        if execution.status not in ("RUNNING", "SUCCEEDED"):
            _log.warning("%s %s: %s: %s", execution.exec_arn, execution.status, execution.error, execution.cause)
        return
    event = {
        "Source": "aws.states",
        "DetailType": "Step Functions Execution Status Change",
        "Resources": [execution.exec_arn],
        "Detail": json.dumps(_detail(execution)),
    }
    try:
        events_backends[execution.account_id][execution.region_name].put_events([event])
    except Exception:
        # A failed delivery must not end the execution: on AWS the two are independent.
        _log.exception("status event of %s was not delivered", execution.exec_arn)


def _detail(execution: Any) -> dict[str, Any]:
    """Return the event's `detail`, with the fields that the Developer Guide lists ("Automating event delivery")."""
    given = execution.execution_input or "{}"
    output = json.dumps(execution.output) if execution.status == "SUCCEEDED" else None
    # The output is left out if it alone is too large, the input if both together are.
    with_output = output is not None and len(json.dumps(output)) <= DETAIL_BYTES
    with_input = len(json.dumps(given)) + (len(json.dumps(output)) if with_output else 0) <= DETAIL_BYTES
    return {
        "executionArn": execution.exec_arn,
        "stateMachineArn": execution.state_machine.arn,
        "name": execution.name,
        "status": execution.status,
        "startDate": _milliseconds(execution.start_date),
        "stopDate": _milliseconds(execution.stop_date),
        "input": given if with_input else None,
        "inputDetails": {"included": with_input},
        "output": output if with_output else None,
        "outputDetails": None if output is None else {"included": with_output},
        "stateMachineVersionArn": None,
        "stateMachineAliasArn": None,
        "redriveCount": 0,
        "redriveDate": None,
        "redriveStatus": "NOT_REDRIVABLE" if execution.status in ("RUNNING", "SUCCEEDED") else "REDRIVABLE",
        "redriveStatusReason": _REDRIVE_REASONS.get(execution.status),
        "error": execution.error,
        "cause": execution.cause,
    }


def _milliseconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp() * 1000) if moment else None


CORRECTIONS = (
    executions_emit_status_events,
    rules_start_state_machines_and_publish,
    disabled_rules_do_not_fire,
    schedules_take_no_events,
    rules_for_events_of_ecs_are_refused,
)
