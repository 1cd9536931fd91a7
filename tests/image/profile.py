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
        tensorflow: Version that the image must have.
        legacy_keras: Value of `TF_USE_LEGACY_KERAS`.
        megabytes: What the image may take, unpacked.
    """

    name: str
    requirements: str
    tensorflow: str
    legacy_keras: int
    megabytes: int

    @property
    def arguments(self) -> dict[str, str]:
        """Build arguments beside the base images."""
        return {
            "REQUIREMENTS": self.requirements,
            "WITH_NCCL": "0",
            "TF_USE_LEGACY_KERAS": str(self.legacy_keras),
        }


PROFILES = (
    Profile(
        name="default",
        requirements="requirements-cpu.txt",
        tensorflow="2.15.1",
        legacy_keras=0,
        megabytes=1700,
    ),
    # Its TensorFlow has the code for GPUs in it, even where CUDA's libraries are left out.
    Profile(
        name="newer",
        requirements="requirements-newer-cpu.txt",
        tensorflow="2.18.1",
        legacy_keras=1,
        megabytes=2700,
    ),
)
