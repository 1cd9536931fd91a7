"""Who is told when something is left running, fails, or becomes expensive."""

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
    Alarms of one training, and the topic that they are published to.

    Creates: six alarms, and unless one is given an SNS topic that takes messages over TLS only, encrypted with a KMS
    key of its own: CloudWatch cannot publish to a topic under the account's `aws/sns` key, whose policy nobody can
    change (AWS re:Post, "How do I configure a CloudWatch alarm with an encrypted SNS topic?"). Nobody is subscribed
    yet: `alarms.topic.add_subscription(…)`.

    Cost at rest: 0.10 USD a month for each metric that an alarm reads, together 1.20 USD; 1 USD a month for the key of
    a topic that is made here. The library's own metrics cost 0.30 USD a month each, for the share of the hours in which
    they are put: in none when no run has a ceiling and nothing is found (Amazon CloudWatch pricing, AWS KMS pricing,
    2026; us-east-1).

    Args:
        training: The training to watch.
        topic:
            Who is told. Its policy, and that of its key, must let `cloudwatch.amazonaws.com` publish.
            Default: a new topic.
        ceiling_percent: A run that has cost more than this share of its ceiling is an alarm. Default: 80.

    Attributes:
        topic: The topic.
        capacity_without_lease: Nodes ran, or were about to, that no run held.
        clean_up_failed: A stopped run may have left something.
        reaper_failed: The reaper failed or did not look. Goes off once in a new stack, until its first look.
        reaped: The reaper took a fleet from a run that was dead.
        run_failed: A run failed.
        ceiling_near: A run has cost most of what it may.

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
            # A reaper that never looks puts nothing: here the silence is the failure.
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
                # Not a sum of the two: in a period in which one has no point, that has none either.
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
        # A topic policy, which TLS needs, replaces the one that lets the account's alarms publish; and CloudWatch calls
        # KMS itself. This permits both.
        topic.grant_publish(
            iam.ServicePrincipal(
                "cloudwatch.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Stack.of(self).account}}
            )
        )
        return topic
