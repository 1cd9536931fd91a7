"""Who hears of a run's end."""

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
"""Of an execution, as Step Functions spells them in its events."""


class RunNotifications(Construct):
    """
    Tells a topic when runs end, in one sentence with the command that shows more.

    Creates: an EventBridge rule, the role with which it publishes, and unless one is given an SNS topic that takes
    messages over TLS only, encrypted with a KMS key of its own. Nobody is subscribed yet:
    `notifications.topic.add_subscription(…)`. Other targets may be added to `notifications.rule`; they get the whole
    event, or what their own `message` says.

    The end of the execution is the end of all: the nodes are gone and the receipt is there, except after an abort or a
    time-out, when the clean-up still does both.

    Cost at rest: 1 USD a month for the key of a topic that is made here. EventBridge takes AWS's own events for
    nothing (AWS KMS pricing, Amazon EventBridge pricing, 2026; us-east-1).

    Args:
        training: The training whose runs are told of.
        topic:
            Who is told. If it is encrypted, the policy of its key must let `role` use it.
            Default: a new topic.
        on:
            Statuses that are told. Default: every end; `RUNNING` tells of starts, too.

    Attributes:
        topic: The topic.
        rule: The rule.
        role: What the rule publishes with.

    Raises:
        ValueError: If *on* is empty or has something else than an execution's status.
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
        # A role, not the topic's policy: that could only name the service, and so rules of any account.
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
