"""The metrics that nodes publish, for graphs and alarms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict, Unpack

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from horovod_node import contract


class MetricOptions(TypedDict, total=False):
    """Options of a metric, as in CDK's `MetricOptions`."""

    account: str
    color: str
    dimensions_map: Mapping[str, str]
    id: str
    label: str
    period: Duration
    region: str
    stack_account: str
    stack_region: str
    statistic: str
    unit: cloudwatch.Unit
    visible: bool


def with_defaults(options: MetricOptions, **defaults: Unpack[MetricOptions]) -> MetricOptions:
    """Return *options*, completed by *defaults*."""
    return {**defaults, **options}


def node_metric(name: str, *, training: str, run: str | None, options: MetricOptions) -> cloudwatch.Metric:
    """
    Return one metric of a training.

    Args:
        name: One of the contract's `METRIC_*`.
        training: Name of the training.
        run: Name of a run; None for all runs of the training together.
        options: Options of the metric. Default: the average over 1 minute, in which nodes publish it six times.
    """
    dimensions = {contract.METRIC_TRAINING: training}
    if run is not None:
        dimensions[contract.METRIC_RUN] = run
    return cloudwatch.Metric(
        namespace=contract.METRIC_NAMESPACE,
        metric_name=name,
        **with_defaults(options, dimensions_map=dimensions, period=Duration.minutes(1)),
    )


_SEARCH: Final = (
    "SEARCH('{{{namespace},{training},{run}}} MetricName=\"{name}\" {training}=\"{of}\"', '{statistic}', 60)"
)


def metric_of_each_run(name: str, *, training: str, statistic: str) -> cloudwatch.SearchExpression:
    """
    Return a search for one metric of each run of a training, because names of runs are not known at synthesis.

    CloudWatch returns the newest 500 metrics.

    Args:
        name: One of the contract's `METRIC_*`.
        training: Name of the training.
        statistic: CloudWatch's name of the statistic.
    """
    expression = _SEARCH.format(
        namespace=contract.METRIC_NAMESPACE,
        training=contract.METRIC_TRAINING,
        run=contract.METRIC_RUN,
        name=name,
        of=training,
        statistic=statistic,
    )
    return cloudwatch.SearchExpression(
        expression=expression, label=f"${{PROP('Dim.{contract.METRIC_RUN}')}}", period=Duration.minutes(1)
    )
