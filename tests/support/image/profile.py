"""The Dockerfile's profiles, as far as a machine without GPUs can build them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Profile:
    """
    One row of the Dockerfile's table.

    Args:
        name: As the table calls it.
        requirements: The row's requirement file, in its form for CPUs.
        megabytes: What the image may take, unpacked.
        probe: Python that prints what of the framework must be in the image, and imports Horovod for it as `hvd`.
        found: What it prints.
        script: Of tests/local/scripts; trains briefly.
        legacy_keras: Value of `TF_USE_LEGACY_KERAS`.
    """

    name: str
    requirements: str
    megabytes: int
    probe: str
    found: str
    script: str
    legacy_keras: int = 0

    @property
    def arguments(self) -> dict[str, str]:
        """Build arguments beside the base images."""
        return {
            "REQUIREMENTS": self.requirements,
            "WITH_NCCL": "0",
            "TF_USE_LEGACY_KERAS": str(self.legacy_keras),
        }


# Only Keras 2 has a package `engine`.
_TENSORFLOW = (
    "import tensorflow as tf, horovod.tensorflow.keras as hvd;"
    "print(tf.__version__, 'engine' in tf.keras.Model.__module__)"
)

PROFILES = (
    Profile(
        name="default",
        requirements="requirements-cpu.txt",
        megabytes=1700,
        probe=_TENSORFLOW,
        found="2.15.1 True",
        script="trains_briefly.py",
    ),
    # Its TensorFlow has the code for GPUs in it, even where CUDA's libraries are left out.
    Profile(
        name="newer",
        requirements="requirements-newer-cpu.txt",
        megabytes=2700,
        probe=_TENSORFLOW,
        found="2.18.1 True",
        script="trains_briefly.py",
        legacy_keras=1,
    ),
    Profile(
        name="torch",
        requirements="requirements-torch-cpu.txt",
        megabytes=1500,
        probe="import torch, horovod.torch as hvd; print(torch.__version__)",
        found="2.13.0+cpu",
        script="trains_torch_briefly.py",
    ),
)
