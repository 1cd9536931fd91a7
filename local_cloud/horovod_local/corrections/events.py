"""EventBridge: status events of executions, and the targets that a rule may have."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import Any, Final

from horovod_local.corrections.registry import correction

_OWN_TARGETS: Final = ("states", "sns")
"""Services of targets that are delivered here; all others are moto's own."""

_log = logging.getLogger(__name__)


@correction(
    moto="emits no event when an execution starts or ends",
    aws="emits a Step Functions Execution Status Change for each, from the source aws.states",
)
def executions_emit_status_events() -> None:
    from moto.stepfunctions.parser.backend.execution import BaseExecutionWorkerCommunication, Execution

    start = Execution.start
    terminated = BaseExecutionWorkerCommunication.terminated

    def start_and_tell(self: Any) -> None:
        start(self)
        _emit_status(self)

    def terminate_and_tell(self: Any) -> None:
        was_running = self.execution.status == "RUNNING"
        terminated(self)
        if was_running:
            _emit_status(self.execution)

    Execution.start = start_and_tell
    BaseExecutionWorkerCommunication.terminated = terminate_and_tell


@correction(
    moto="answers PutEvents with 500 when a matching rule has a state machine or a topic as its target",
    aws="starts the state machine or publishes to the topic, with the rule's input",
)
def rules_start_state_machines_and_publish() -> None:
    from moto.events.models import EventTemplateParser, Rule

    send_to_targets = Rule.send_to_targets

    def send(self: Any, original_event: Any, transform_input: bool = True) -> None:
        if not self.event_pattern.matches_event(original_event):
            return
        own = [target for target in self.targets if _service(target) in _OWN_TARGETS]
        for target in own:
            transformer = target.get("InputTransformer") or {}
            body = target.get("Input") or json.dumps(
                EventTemplateParser.parse(
                    input_template=transformer.get("InputTemplate"),
                    input_paths_map=transformer.get("InputPathsMap", {}),
                    event=original_event,
                )
            )
            _deliver(target["Arn"], body)
        every_target = self.targets
        self.targets = [target for target in every_target if target not in own]
        try:
            send_to_targets(self, original_event, transform_input)
        finally:
            self.targets = every_target

    Rule.send_to_targets = send


def _service(target: dict[str, Any]) -> str:
    return str(target["Arn"].split(":")[2])


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

    status = execution.status
    detail = {
        "executionArn": execution.exec_arn,
        "stateMachineArn": execution.state_machine.arn,
        "name": execution.name,
        "status": status,
        "startDate": _milliseconds(execution.start_date),
        "stopDate": _milliseconds(execution.stop_date),
        "input": json.dumps(execution.input_data),
        "output": json.dumps(execution.output) if status == "SUCCEEDED" else None,
        "error": execution.error,
        "cause": execution.cause,
    }
    event = {
        "Source": "aws.states",
        "DetailType": "Step Functions Execution Status Change",
        "Resources": [execution.exec_arn],
        "Detail": json.dumps(detail),
    }
    try:
        events_backends[execution.account_id][execution.region_name].put_events([event])
    except Exception:
        # A rule's target that cannot be reached must not end the execution: on AWS delivery is apart from it.
        _log.exception("status event of %s was not delivered", execution.exec_arn)


def _milliseconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp() * 1000) if moment else None


CORRECTIONS = (executions_emit_status_events, rules_start_state_machines_and_publish)
