"""The metrics that nodes write, in CloudWatch's embedded metric format."""

from __future__ import annotations

from typing import Final

METRIC_NAMESPACE: Final = "CdkHorovod"
METRIC_TRAINING: Final = "Training"
"""Dimension with the training's name (`ENV_TRAINING`)."""
METRIC_RUN: Final = "Run"
"""Dimension with the run's name. Each metric has `METRIC_TRAINING` alone, and both dimensions."""
METRIC_SAMPLES_PER_SECOND: Final = "SamplesPerSecond"
METRIC_STEP_SECONDS: Final = "StepSeconds"
"""One value for each step, so that CloudWatch gives percentiles."""
METRIC_RING_SIZE: Final = "RingSize"
METRIC_GPU_UTILIZATION: Final = "GpuUtilization"
METRIC_GPU_MEMORY: Final = "GpuMemoryUtilization"
METRIC_BYTES_READ: Final = "BytesRead"
METRIC_CEILING_USED: Final = "CeilingUsed"
"""Percentage of its cost ceiling that a run has used; published by its leader."""
