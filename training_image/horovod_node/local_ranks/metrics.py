"""
Publishes the metrics of a training, in CloudWatch's embedded metric format.

Each node logs one line about every ten seconds, from which CloudWatch Logs extracts metrics (Amazon CloudWatch User
Guide, "Specification: Embedded metric format"). A node's lines have the metrics of its GPUs and the bytes that its
ranks read. The leader, which has rank 0, adds those of the ring.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.cost_ceiling import CostCeiling
from horovod_node.local_ranks.gpu_monitor import GpuMonitor
from horovod_node.node.waiting import Interval
from horovod_node.rank_process.progress import Progress

SECONDS: Final = 10.0
"""Seconds between two lines."""
MOST_VALUES: Final = 100
"""Most values of a metric in one line; CloudWatch drops a metric with more."""

UNITS: Final[Mapping[str, str]] = {
    contract.METRIC_SAMPLES_PER_SECOND: "Count/Second",
    contract.METRIC_STEP_SECONDS: "Seconds",
    contract.METRIC_RING_SIZE: "Count",
    contract.METRIC_CEILING_USED: "Percent",
    contract.METRIC_GPU_UTILIZATION: "Percent",
    contract.METRIC_GPU_MEMORY: "Percent",
    contract.METRIC_BYTES_READ: "Bytes",
}

Value = float | Sequence[float]


def embedded(metrics: Mapping[str, Value], *, training: str, run: str, node: str, at: float) -> str:
    """
    Write one line in the embedded metric format.

    Args:
        metrics: Name (a key of `UNITS`) to one value, or to up to `MOST_VALUES`.
        training: First dimension of each metric.
        run: Second dimension. Each metric is published with and without it.
        node: For queries of the log. It is not a dimension: each node's metrics would be billed separately.
        at: Epoch seconds.
    """
    return json.dumps(
        {
            "_aws": {
                "Timestamp": int(at * 1000),
                "CloudWatchMetrics": [
                    {
                        "Namespace": contract.METRIC_NAMESPACE,
                        "Dimensions": [
                            [contract.METRIC_TRAINING],
                            [contract.METRIC_TRAINING, contract.METRIC_RUN],
                        ],
                        "Metrics": [{"Name": name, "Unit": UNITS[name]} for name in metrics],
                    }
                ],
            },
            contract.METRIC_TRAINING: training,
            contract.METRIC_RUN: run,
            "Node": node,
            **metrics,
        },
        allow_nan=False,
    )


class TrainingMetrics:
    """
    Publishes the metrics of this node's ranks while they train, unless logs are not shipped.

    Args:
        work: The node's part in the attempt.
        gpus: The node's GPUs. Default: those that NVML finds.
        seconds: Seconds between two lines. Default: `SECONDS`.
        proc: The kernel's process file system. Default: `/proc`.
    """

    def __init__(
        self, work: NodeAttempt, *, gpus: GpuMonitor | None = None, seconds: float = SECONDS, proc: Path = Path("/proc")
    ) -> None:
        self._work = work
        self._gpus = gpus or (GpuMonitor() if work.shipping is not None else None)
        self._every = Interval(seconds)
        # The first line is due after the interval, because there are no values yet.
        self._every.elapsed()
        self._proc = proc
        self.ring_size: int | None = None
        """Number of ranks of the ring; only on the leader."""
        self.ceiling: CostCeiling | None = None
        """Cost ceiling of the run, if it has one; only on the leader."""
        self._timed_steps = 0
        self._advances = 0
        self._read: dict[int, int] = {}

    def turn(self, progress: Mapping[int, Progress], processes: Sequence[int]) -> None:
        """
        Send a line if it is due. The agent's loop calls this in every turn.

        Args:
            progress: Progress of each rank of this node, by its number, or local rank in an elastic ring.
            processes: Process ids of the ranks.
        """
        shipping = self._work.shipping
        if shipping is None or self._gpus is None or not self._every.elapsed():
            return
        values: dict[str, Value] = {
            **self._of_the_ring(progress.get(0)),
            contract.METRIC_GPU_UTILIZATION: self._gpus.utilization(),
            contract.METRIC_GPU_MEMORY: self._gpus.memory(),
            contract.METRIC_BYTES_READ: self._bytes_read(processes),
        }
        shipping.take(
            contract.LOG_METRICS,
            embedded(
                # A metric without values is left out.
                {name: value for name, value in values.items() if not isinstance(value, Sequence) or value},
                training=self._work.node.training,
                run=self._work.lease.run,
                node=self._work.node.id,
                at=time.time(),
            ),
        )

    def end(self, progress: Mapping[int, Progress], processes: Sequence[int]) -> None:
        """Send the last line, with the values since the line before."""
        self._every.expire_now()
        self.turn(progress, processes)

    def _of_the_ring(self, first: Progress | None) -> dict[str, Value]:
        """Return the metrics of the ring, on the leader only; *first* is rank 0's progress there."""
        if self.ring_size is None or first is None:
            return {}
        values: dict[str, Value] = {contract.METRIC_RING_SIZE: self.ring_size}
        if self.ceiling is not None:
            values[contract.METRIC_CEILING_USED] = round(self.ceiling.percent_used(time.time()), 1)
        # Ranks that were restarted count from 0 again.
        fresh = first.timed_steps - (self._timed_steps if first.timed_steps >= self._timed_steps else 0)
        self._timed_steps = first.timed_steps
        if fresh:
            values[contract.METRIC_STEP_SECONDS] = list(first.step_seconds[-min(fresh, MOST_VALUES) :])
        # While the ring takes no step, its last throughput is out of date.
        if first.advances != self._advances and first.samples_per_second is not None:
            values[contract.METRIC_SAMPLES_PER_SECOND] = first.samples_per_second
        self._advances = first.advances
        return values

    def _bytes_read(self, processes: Sequence[int]) -> int:
        """Return the bytes that the ranks have read since the last call, from the disk or from the page cache."""
        now = {process: total for process in processes if (total := self._total_read(process)) is not None}
        fresh = sum(total - self._read.get(process, 0) for process, total in now.items())
        self._read = now
        return fresh

    def _total_read(self, process: int) -> int | None:
        try:
            facts = (self._proc / str(process) / "io").read_text()
        except OSError:  # the process has ended, or the kernel has no I/O accounting
            return None
        return next((int(line.split()[1]) for line in facts.splitlines() if line.startswith("rchar:")), None)
