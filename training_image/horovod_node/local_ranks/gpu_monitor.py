"""How busy this node's GPUs are, as their driver tells."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

_log = logging.getLogger(__name__)


class GpuMonitor:
    """
    Reads all GPUs of this machine through NVML, the NVIDIA driver's own library; it reads nothing where there is none.

    Args:
        nvml: Stands in for the module `pynvml`. Default: that module, if it is installed and finds a driver.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml
        self._devices: list[Any] = []
        try:
            if nvml is None:
                # Not an import: the package is in images with GPUs only, and so unknown to type checkers.
                self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            self._devices = [
                self._nvml.nvmlDeviceGetHandleByIndex(number) for number in range(self._nvml.nvmlDeviceGetCount())
            ]
        except Exception as error:
            # No package, no driver, or a driver that is ill: each is an error of its own, and none is the training's.
            _log.info("no GPU metrics: %s", error)

    def utilization(self) -> Sequence[float]:
        """Give, of each GPU, the percentage of the last moments in which it computed."""
        return self._read(lambda device: float(self._nvml.nvmlDeviceGetUtilizationRates(device).gpu))

    def memory(self) -> Sequence[float]:
        """Give, of each GPU, the percentage of its memory that is taken. TensorFlow takes all unless told otherwise."""

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
