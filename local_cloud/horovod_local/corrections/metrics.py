"""CloudWatch: embedded metrics in log lines, and statistics by exact dimensions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from horovod_local.corrections.registry import correction


@correction(
    moto="stores log lines in the embedded metric format as text only",
    aws="also publishes the metrics that they describe, one for each set of dimensions",
)
def embedded_metrics_are_put() -> None:
    from moto.cloudwatch.models import cloudwatch_backends
    from moto.core.utils import utcnow
    from moto.logs.models import LogsBackend

    put_log_events = LogsBackend.put_log_events

    def put_and_extract(
        self: Any, log_group_name: str, log_stream_name: str, log_events: list[dict[str, Any]]
    ) -> tuple[str, dict[str, Any]]:
        answer: tuple[str, dict[str, Any]] = put_log_events(self, log_group_name, log_stream_name, log_events)
        cloudwatch = cloudwatch_backends[self.account_id][self.region_name]
        for event in log_events:
            # As on AWS, a line that is not in this format, or is malformed, publishes nothing.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                for namespace, datum in list(_embedded(json.loads(event["message"]))):
                    # moto compares this with its own clock, so both must have a time zone, or neither.
                    at = datum["Timestamp"].replace(tzinfo=utcnow().tzinfo)
                    cloudwatch.put_metric_data(namespace, [{**datum, "Timestamp": at}])
        return answer

    LogsBackend.put_log_events = put_and_extract


def _embedded(line: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each metric of *line*: its namespace, and its datum as PutMetricData takes it."""
    about = line["_aws"]
    at = datetime.fromtimestamp(about["Timestamp"] / 1000, tz=UTC)
    for directive in about["CloudWatchMetrics"]:
        for metric in directive["Metrics"]:
            value = line.get(metric["Name"])
            if value is None:
                continue
            for dimensions in directive["Dimensions"]:
                yield (
                    directive["Namespace"],
                    {
                        "MetricName": metric["Name"],
                        "Dimensions": [{"Name": name, "Value": line[name]} for name in dimensions],
                        "Values": value if isinstance(value, list) else [value],
                        "Unit": metric.get("Unit", "None"),
                        "Timestamp": at,
                    },
                )


@correction(
    moto="includes metrics with more dimensions than GetMetricStatistics names",
    aws="treats each combination of dimensions as a separate metric",
)
def statistics_take_exact_dimensions() -> None:
    from moto.cloudwatch.models import CloudWatchBackend

    get_metric_statistics = CloudWatchBackend.get_metric_statistics

    def get(self: Any, *args: Any, dimensions: list[dict[str, str]], **options: Any) -> Any:
        asked = sorted((each["Name"], each["Value"]) for each in dimensions)
        exact = [
            datum
            for datum in self.get_all_metrics()
            if sorted((each.name, each.value) for each in datum.dimensions) == asked
        ]
        return get_metric_statistics(
            SimpleNamespace(get_all_metrics=lambda: exact), *args, dimensions=dimensions, **options
        )

    CloudWatchBackend.get_metric_statistics = get


CORRECTIONS = (embedded_metrics_are_put, statistics_take_exact_dimensions)
