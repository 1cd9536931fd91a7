"""Metrics in log lines, against AWS's "Specification: Embedded metric format"."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from horovod_local import LocalCloud
from horovod_node import contract
from horovod_node.local_ranks.metrics import embedded

NAMESPACE = contract.METRIC_NAMESPACE


def log(cloud: LocalCloud, *lines: str, group: str) -> list[str]:
    """Put *lines* into a new log group, and read them back."""
    api = cloud.client("logs")
    api.create_log_group(logGroupName=group)
    api.create_log_stream(logGroupName=group, logStreamName="metrics")
    now = int(time.time() * 1000)
    api.put_log_events(
        logGroupName=group,
        logStreamName="metrics",
        logEvents=[{"timestamp": now, "message": line} for line in lines],
    )
    events = api.get_log_events(logGroupName=group, logStreamName="metrics", startFromHead=True)["events"]
    return [event["message"] for event in events]


def statistics(cloud: LocalCloud, name: str, **dimensions: str) -> list[Mapping[str, Any]]:
    """Read what CloudWatch has of one metric within this hour."""
    now = datetime.now(UTC)
    found: list[Mapping[str, Any]] = cloud.client("cloudwatch").get_metric_statistics(
        Namespace=NAMESPACE,
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
        Period=3600,
        Statistics=["SampleCount", "Sum", "Maximum"],
    )["Datapoints"]
    return [{key: point[key] for key in ("SampleCount", "Sum", "Maximum", "Unit")} for point in found]


def test_embedded_metrics_are_put(cloud: LocalCloud) -> None:
    """What a node logs becomes metrics: of its run, and of all runs of the training."""
    # GIVEN lines as nodes write them, and some that only look like it
    lines = [
        embedded(
            {contract.METRIC_STEP_SECONDS: [0.25, 0.5, 0.75], contract.METRIC_RING_SIZE: 4},
            training="embedded",
            run=run,
            node="i-1",
            at=time.time(),
        )
        for run in ("one", "two")
    ]
    wrong = ["plain words", "7", json.dumps({"_aws": {"Timestamp": 1}})]

    # WHEN
    kept = log(cloud, *lines, *wrong, group="embedded")

    # THEN
    assert kept == [*lines, *wrong]
    assert statistics(cloud, contract.METRIC_STEP_SECONDS, Training="embedded", Run="one") == [
        {"SampleCount": 3, "Sum": 1.5, "Maximum": 0.75, "Unit": "Seconds"}
    ]
    assert statistics(cloud, contract.METRIC_RING_SIZE, Training="embedded") == [
        {"SampleCount": 2, "Sum": 8, "Maximum": 4, "Unit": "Count"}
    ]
    # AND GetMetricData has them, too
    query = {
        "Id": "steps",
        "MetricStat": {
            "Metric": {
                "Namespace": NAMESPACE,
                "MetricName": contract.METRIC_STEP_SECONDS,
                "Dimensions": [{"Name": contract.METRIC_TRAINING, "Value": "embedded"}],
            },
            "Period": 7200,
            "Stat": "SampleCount",
        },
    }
    now = datetime.now(UTC)
    (found,) = cloud.client("cloudwatch").get_metric_data(
        MetricDataQueries=[query], StartTime=now - timedelta(hours=1), EndTime=now + timedelta(minutes=1)
    )["MetricDataResults"]
    assert found["Values"] == [pytest.approx(6)]


def test_statistics_take_exact_dimensions(cloud: LocalCloud) -> None:
    """A metric of a run is none of its training: who asks for one does not get both."""
    # WHEN
    api = cloud.client("cloudwatch")
    for value, names in ((1, ("Training",)), (10, ("Training", "Run"))):
        dimensions = [{"Name": name, "Value": "exact"} for name in names]
        api.put_metric_data(
            Namespace=NAMESPACE,
            MetricData=[{"MetricName": "Exact", "Dimensions": dimensions, "Value": value, "Unit": "Count"}],
        )

    # THEN
    assert [point["Sum"] for point in statistics(cloud, "Exact", Training="exact")] == [1]
    assert [point["Sum"] for point in statistics(cloud, "Exact", Training="exact", Run="exact")] == [10]
    assert statistics(cloud, "Exact") == []
