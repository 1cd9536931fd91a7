"""What nodes tell CloudWatch of their training, as metrics for graphs and alarms."""

from __future__ import annotations

from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from horovod_node import contract


def node_metric(
    name: str, *, training: str, run: str | None, statistic: str, period: Duration | None
) -> cloudwatch.Metric:
    """
    Give one metric of a training.

    Args:
        name: One of the contract's `METRIC_*`.
        training: Name of the training.
        run: Of one run only. Default: of all runs of the training together.
        statistic: As CloudWatch spells it.
        period: Default: 1 minute, in which nodes tell it six times.
    """
    dimensions = {contract.METRIC_TRAINING: training}
    if run is not None:
        dimensions[contract.METRIC_RUN] = run
    return cloudwatch.Metric(
        namespace=contract.METRIC_NAMESPACE,
        metric_name=name,
        dimensions_map=dimensions,
        statistic=statistic,
        period=period or Duration.minutes(1),
    )


_SEARCH: Final = (
    "SEARCH('{{{namespace},{training},{run}}} MetricName=\"{name}\" {training}=\"{of}\"', '{statistic}', 60)"
)


def metric_of_each_run(name: str, *, training: str, statistic: str) -> cloudwatch.SearchExpression:
    """
    Search for one metric of each run of a training, the newest 500 of them; nobody knows their names before.

    Args:
        name: One of the contract's `METRIC_*`.
        training: Name of the training.
        statistic: As CloudWatch spells it.
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
