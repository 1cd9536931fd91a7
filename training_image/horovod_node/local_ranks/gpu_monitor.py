"""Utilization of this node's GPUs, as reported by their driver."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

_log = logging.getLogger(__name__)


class GpuMonitor:
    """
    Reads all GPUs of this machine through NVML, the NVIDIA driver's library. Without NVML there are no values.

    Args:
        nvml: Replaces the module `pynvml`. Default: that module, if it is installed and finds a driver.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml
        self._devices: list[Any] = []
        try:
            if nvml is None:
                # Not an import statement: only GPU images have the package, so type checkers do not know it.
                self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            self._devices = [
                self._nvml.nvmlDeviceGetHandleByIndex(number) for number in range(self._nvml.nvmlDeviceGetCount())
            ]
        except Exception as error:
            # A missing package, a missing driver and a broken driver raise different errors. None stops the training.
            _log.info("no GPU metrics: %s", error)

    def utilization(self) -> Sequence[float]:
        """Return, for each GPU, the percentage of the last sample period in which it computed."""
        return self._read(lambda device: float(self._nvml.nvmlDeviceGetUtilizationRates(device).gpu))

    def memory(self) -> Sequence[float]:
        """Return, for each GPU, the percentage of its memory in use. By default TensorFlow takes all of it."""

        def taken(device: Any) -> float:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
            return round(float(100 * memory.used / memory.total), 1)

        return self._read(taken)

    def _read(self, value: Callable[[Any], float]) -> Sequence[float]:
        try:
            return [value(device) for device in self._devices]
        except Exception as error:
            _log.info("no GPU metrics any more: %s", error)
            self._devices = []
            return []
