"""Alarms for nodes that are left running, for failures, and for runs near their cost ceiling."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from constructs import Construct

from cdk_horovod.resources.topic import encrypted_topic
from cdk_horovod.training import HorovodTraining


class TrainingAlarms(Construct):
    """
    Alarms of one training, and the topic to which they publish.

    Creates: six alarms and, unless one is given, an SNS topic that accepts messages over TLS only, encrypted with its
    own KMS key: CloudWatch cannot publish to a topic with the account's `aws/sns` key, whose policy cannot be changed
    (AWS re:Post, "How do I configure a CloudWatch alarm with an encrypted SNS topic?"). The topic has no subscribers
    yet: `alarms.topic.add_subscription(…)`.

    Cost at rest: 0.10 USD a month for each metric that an alarm reads, together 1.20 USD, and 1 USD a month for the key
    of a new topic. Each metric of this library costs 0.30 USD a month, in proportion to the hours in which it is
    published: none if no run has a ceiling and the reaper finds nothing (Amazon CloudWatch pricing, AWS KMS pricing,
    2026; us-east-1).

    Args:
        training: The training to watch.
        topic:
            Topic for the alarms. Its policy, and that of its key, must let `cloudwatch.amazonaws.com` publish.
            Default: a new topic.
        ceiling_percent: Share of its cost ceiling above which a run raises an alarm. Default: 80.

    Attributes:
        topic: The topic.
        capacity_without_lease: A fleet had or was launching nodes that no run held.
        clean_up_failed: The clean-up of a stopped run failed, so nodes may be left.
        reaper_failed: The reaper failed or did not run. In a new stack it is in alarm until the reaper's first run.
        reaped: The reaper reclaimed a fleet from a run that had ended.
        run_failed: A run failed.
        ceiling_near: A run is near its cost ceiling.

    Raises:
        ValueError: If *ceiling_percent* is not more than 0 and at most 100.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        training: HorovodTraining,
        topic: sns.ITopic | None = None,
        ceiling_percent: float = 80,
    ) -> None:
        if not 0 < ceiling_percent <= 100:
            raise ValueError(f"'ceiling_percent' must be more than 0 and at most 100, got {ceiling_percent}")
        super().__init__(scope, id)
        self.topic = topic or self._new_topic()
        self.capacity_without_lease = self._alarm(
            "CapacityWithoutLease",
            training.metric_capacity_without_lease(),
            "A fleet had nodes that no run held, and the reaper told them to go. If this alarm lasts, set the group's "
            "desired capacity to 0 by hand, and find out who raised it.",
        )
        self.clean_up_failed = self._alarm(
            "CleanUpFailed",
            training.metric_clean_up_failed(),
            "The clean-up of a stopped run failed, or no event could start it; the reaper takes over at its next look. "
            "See that the group goes to 0, and read the clean-up's failed execution.",
        )
        self.reaper_failed = self._alarm(
            "ReaperFailed",
            training.metric_reaper_failed(),
            "The reaper failed, or did not look at the fleets: nodes that the workflow and the clean-up miss now end "
            "only by themselves. Check its schedule rule and its latest executions.",
            # A reaper that never runs publishes nothing, so missing data is the failure.
            silence=cloudwatch.TreatMissingData.BREACHING,
        )
        self.reaped = self._alarm(
            "Reaped",
            training.metric_reaped(),
            "The reaper took a fleet from a run that was over: the workflow and the clean-up had both missed it. "
            "Nothing is left of the run; read its receipt, and find out why its clean-up did not act.",
        )
        self.run_failed = self._alarm(
            "RunFailed",
            cloudwatch.MathExpression(
                # `failed + timedout` would have no value in periods in which one of them has none.
                expression="SUM(METRICS())",
                label="Runs that failed",
                using_metrics={"failed": training.metric_failed(), "timedout": training.metric_timed_out()},
            ),
            "A run failed, and its nodes are gone. Its receipt says why: cdk-horovod receipt RUN.",
        )
        self.ceiling_near = self._alarm(
            "CeilingNear",
            training.metric_ceiling_used(),
            f"A run has cost more than {ceiling_percent:g} % of its max_cost_usd; at 100 % it is stopped, and its "
            "checkpoints are kept. Nothing is to be done, unless its owner stops it now: cdk-horovod stop RUN.",
            above=ceiling_percent,
        )

    def _alarm(
        self,
        id: str,
        metric: cloudwatch.IMetric,
        description: str,
        *,
        above: float = 0,
        silence: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
    ) -> cloudwatch.Alarm:
        alarm = cloudwatch.Alarm(
            self,
            id,
            metric=metric,
            threshold=above,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            evaluation_periods=1,
            treat_missing_data=silence,
            alarm_description=description,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        return alarm

    def _new_topic(self) -> sns.Topic:
        topic = encrypted_topic(self, description="Alarms of a training")
        # The topic policy that enforces TLS replaces the default one, which lets alarms publish. CloudWatch also needs
        # the KMS key. This grants both.
        topic.grant_publish(
            iam.ServicePrincipal(
                "cloudwatch.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Stack.of(self).account}}
            )
        )
        return topic
