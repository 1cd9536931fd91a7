"""A dashboard of a training: its runs, their speed and their cost."""

from __future__ import annotations

from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from cdk_horovod.node_metrics import metric_of_each_run
from cdk_horovod.training import HorovodTraining
from horovod_node import contract

_WIDTH: Final = 24
"""Width of a dashboard, in CloudWatch's units."""
_HEIGHT: Final = 6


class TrainingDashboard(Construct):
    """
    A CloudWatch dashboard of one training.

    It shows started, succeeded and failed runs; samples per second, ring size and GPU use of each run; three
    percentiles of the step time; the cost of running runs in percent of their ceilings; and capacity that no run held.
    New runs appear without a deployment.

    Cost at rest: nothing for an account's first three dashboards, 3 USD a month for each further one. The metrics of
    nodes are custom metrics, six for each run and the same six for all runs of the training. Each costs 0.30 USD a
    month, in proportion to the hours with values: half a cent for an hour of a run. They are published with or without
    a dashboard (Amazon CloudWatch pricing, 2026; us-east-1).

    Args:
        training: The training to show.
        name: Name of the dashboard. Default: CloudFormation chooses one.

    Attributes:
        dashboard: The dashboard, to which you can add widgets.
    """

    def __init__(self, scope: Construct, id: str, *, training: HorovodTraining, name: str | None = None) -> None:
        super().__init__(scope, id)
        self.dashboard = cloudwatch.Dashboard(
            self, "Dashboard", dashboard_name=name, default_interval=Duration.hours(12)
        )
        self.dashboard.add_widgets(
            _graph(
                "Runs",
                _labelled(training.metric_started(), "started"),
                _labelled(training.metric_succeeded(), "succeeded"),
                _labelled(training.metric_failed(), "failed"),
                _labelled(training.metric_timed_out(), "timed out"),
            ),
            _graph("Cost of running runs, % of their ceilings", _labelled(training.metric_ceiling_used(), "highest")),
            _graph(
                "Left running",
                _labelled(training.metric_capacity_without_lease(), "capacity without a lease"),
                _labelled(training.metric_reaped(), "fleets reaped"),
            ),
        )
        self.dashboard.add_widgets(
            _graph("Samples per second", _each_run(training, contract.METRIC_SAMPLES_PER_SECOND)),
            _graph(
                "Seconds per step, all runs",
                *(_labelled(training.metric_step_time(statistic=each), each) for each in ("p50", "p90", "p99")),
            ),
            _graph("Seconds per step, median", _each_run(training, contract.METRIC_STEP_SECONDS, statistic="p50")),
        )
        self.dashboard.add_widgets(
            _graph("GPUs in the ring", _each_run(training, contract.METRIC_RING_SIZE)),
            _graph("GPU utilisation, %", _each_run(training, contract.METRIC_GPU_UTILIZATION)),
            _graph("GPU memory in use, %", _each_run(training, contract.METRIC_GPU_MEMORY)),
        )
        self.dashboard.add_widgets(
            _graph("Bytes read", _each_run(training, contract.METRIC_BYTES_READ, statistic="Sum"))
        )


def _each_run(training: HorovodTraining, name: str, *, statistic: str = "Average") -> cloudwatch.SearchExpression:
    return metric_of_each_run(name, training=training.queue, statistic=statistic)


def _labelled(metric: cloudwatch.Metric, label: str) -> cloudwatch.Metric:
    return metric.with_(label=label)


def _graph(title: str, *metrics: cloudwatch.IMetric) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(
        title=title,
        left=list(metrics),
        left_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
        width=_WIDTH // 3,
        height=_HEIGHT,
    )
