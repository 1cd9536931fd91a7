"""What a node tells CloudWatch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.local_ranks.gpu_monitor import GpuMonitor
from horovod_node.local_ranks.metrics import UNITS, TrainingMetrics, embedded
from horovod_node.rank_process.progress import Progress


class Lines:
    """Stands in for the shipping of lines, and keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def take(self, speaker: str, line: str) -> None:
        assert speaker == contract.LOG_METRICS
        self.lines.append(json.loads(line))


NVML = SimpleNamespace(
    nvmlInit=lambda: None,
    nvmlDeviceGetCount=lambda: 2,
    nvmlDeviceGetHandleByIndex=lambda number: number,
    nvmlDeviceGetUtilizationRates=lambda device: SimpleNamespace(gpu=50 * device, memory=7),
    nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used=6 * device, total=24),
)
"""Two GPUs, one of them half busy and a quarter full."""
NO_DRIVER = SimpleNamespace()
"""The package where nothing that it needs is there."""


@pytest.fixture
def said() -> Lines:
    return Lines()


@pytest.fixture
def node_work(work: NodeAttempt, said: Lines) -> NodeAttempt:
    """A node's work with a name for its metrics."""
    return replace(work, node=replace(work.node, training="digits"), shipping=said)  # type: ignore[arg-type]


def test_line_is_in_the_embedded_metric_format() -> None:
    """As AWS specifies it: metrics with units, two sets of dimensions, milliseconds."""
    # WHEN
    line = embedded(
        {contract.METRIC_RING_SIZE: 4, contract.METRIC_STEP_SECONDS: [0.1, 0.2]},
        training="digits",
        run="run-1",
        node="i-1",
        at=12.5,
    )

    # THEN
    assert json.loads(line) == {
        "_aws": {
            "Timestamp": 12500,
            "CloudWatchMetrics": [
                {
                    "Namespace": "CdkHorovod",
                    "Dimensions": [["Training"], ["Training", "Run"]],
                    "Metrics": [{"Name": "RingSize", "Unit": "Count"}, {"Name": "StepSeconds", "Unit": "Seconds"}],
                }
            ],
        },
        "Training": "digits",
        "Run": "run-1",
        "Node": "i-1",
        "RingSize": 4,
        "StepSeconds": [0.1, 0.2],
    }


def test_leader_tells_of_the_ring(node_work: NodeAttempt, said: Lines, tmp_path: Path) -> None:
    """Each step's time once, the ring's size, what the GPUs do and what was read since the line before."""
    # GIVEN
    metrics = TrainingMetrics(node_work, gpus=GpuMonitor(NVML), seconds=0, proc=tmp_path)
    metrics.ring_size = 2
    (tmp_path / "7").mkdir()
    read = tmp_path / "7" / "io"

    # WHEN
    read.write_text("rchar: 1000\nwchar: 5\n")
    first = Progress(step=2, advances=2, samples_per_second=90.0, timed_steps=2, step_seconds=(0.3, 0.2))
    metrics.turn({0: first}, [7, 8])
    read.write_text("rchar: 1700\nwchar: 5\n")
    second = replace(first, step=3, advances=3, timed_steps=3, step_seconds=(0.3, 0.2, 0.1))
    metrics.turn({0: second}, [7, 8])
    metrics.turn({0: second}, [7, 8])

    # THEN
    told = [{name: line[name] for name in UNITS if name in line} for line in said.lines]
    of_gpus = {"RingSize": 2, "GpuUtilization": [0, 50], "GpuMemoryUtilization": [0, 25]}
    assert told == [
        {**of_gpus, "SamplesPerSecond": 90.0, "StepSeconds": [0.3, 0.2], "BytesRead": 1000},
        {**of_gpus, "SamplesPerSecond": 90.0, "StepSeconds": [0.1], "BytesRead": 700},
        {**of_gpus, "BytesRead": 0},
    ]
    assert {(line["Training"], line["Run"], line["Node"]) for line in said.lines} == {("digits", "run-1", "node-1")}


def test_ranks_that_were_started_again_are_counted_anew(node_work: NodeAttempt, said: Lines) -> None:
    """A new process of rank 0 begins with no steps, and its first ones are told all the same."""
    # GIVEN
    metrics = TrainingMetrics(node_work, gpus=GpuMonitor(NO_DRIVER), seconds=0)
    metrics.ring_size = 2

    # WHEN
    metrics.turn({0: Progress(advances=150, timed_steps=150, step_seconds=(0.1,) * 100)}, [])
    metrics.turn({0: Progress(advances=2, timed_steps=2, step_seconds=(0.3, 0.4))}, [])

    # THEN
    assert [line["StepSeconds"] for line in said.lines] == [[0.1] * 100, [0.3, 0.4]]


def test_follower_without_gpus_tells_what_it_reads(node_work: NodeAttempt, said: Lines) -> None:
    """What it does not know it leaves out; the line stays valid."""
    # GIVEN
    metrics = TrainingMetrics(node_work, gpus=GpuMonitor(NO_DRIVER), seconds=0)

    # WHEN
    metrics.turn({0: Progress(step=9, advances=9, samples_per_second=9.0)}, [])

    # THEN
    (line,) = said.lines
    assert [name for name in UNITS if name in line] == ["BytesRead"]


def test_line_waits_for_its_time_and_the_last_does_not(node_work: NodeAttempt, said: Lines) -> None:
    """One in ten seconds, and at the end what came since."""
    metrics = TrainingMetrics(node_work, gpus=GpuMonitor(NO_DRIVER), seconds=60)
    metrics.turn({}, [])
    assert said.lines == []
    metrics.end({}, [])
    assert len(said.lines) == 1
