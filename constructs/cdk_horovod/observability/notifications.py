"""Notifications of ended runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge
from cdk_horovod.resources.topic import encrypted_topic
from cdk_horovod.training import HorovodTraining

STATUSES: Final = ("RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")
"""Statuses of an execution, as Step Functions' events spell them."""


class RunNotifications(Construct):
    """
    Publishes to a topic when a run ends: one sentence, with the command that shows the receipt.

    Creates: an EventBridge rule, the role with which it publishes and, unless one is given, an SNS topic that accepts
    messages over TLS only, encrypted with its own KMS key. The topic has no subscribers yet:
    `notifications.topic.add_subscription(…)`. You can add other targets to `notifications.rule`; they get the whole
    event, or their own `message`.

    When an execution has ended, its nodes are terminated and its receipt is written, except after an abort or a
    timeout, when the clean-up still does both.

    Cost at rest: 1 USD a month for the key of a new topic. EventBridge does not charge for events of AWS services (AWS
    KMS pricing, Amazon EventBridge pricing, 2026; us-east-1).

    Args:
        training: The training whose runs are reported.
        topic:
            Topic for the messages. If it is encrypted, the policy of its key must let `role` use it.
            Default: a new topic.
        on:
            Statuses that are reported. Default: every end; `RUNNING` also reports starts.

    Attributes:
        topic: The topic.
        rule: The rule.
        role: Role with which the rule publishes.

    Raises:
        ValueError: If *on* is empty, or has a value that is not a status.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        training: HorovodTraining,
        topic: sns.ITopic | None = None,
        on: Sequence[str] = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"),
    ) -> None:
        wrong = [status for status in on if status not in STATUSES]
        if wrong or not on:
            raise ValueError(f"'on' must be one or more of {', '.join(STATUSES)}, got {', '.join(wrong) or 'none'}")
        super().__init__(scope, id)
        self.topic = topic or encrypted_topic(self, description="Runs of a training that ended")
        self.rule = events.Rule(
            self,
            "Rule",
            description="Tell of runs",
            event_pattern=events.EventPattern(
                source=["aws.states"],
                detail_type=["Step Functions Execution Status Change"],
                detail={"stateMachineArn": [training.state_machine.state_machine_arn], "status": list(on)},
            ),
        )
        # With a role, because a topic policy could only name the service, and so would admit rules of any account.
        self.role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("events.amazonaws.com"))
        name, status = (events.EventField.from_path(f"$.detail.{field}") for field in ("name", "status"))
        sentence = f"Run {name} of {training.queue} is {status}. What became of it: cdk-horovod receipt {name}"
        self.rule.add_target(
            targets.SnsTopic(
                self.topic,
                message=events.RuleTargetInput.from_text(sentence),
                authorize_using_role=True,
                role=self.role,
            )
        )
        if topic is None:
            acknowledge(
                self.role,
                rule="IAM5[Action::kms:GenerateDataKey*]",
                reason="SNS asks for data keys with either of the two actions; the statement names one key.",
            )
