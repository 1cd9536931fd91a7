"""Checks that an image has code for the GPUs of a fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Annotations

from cdk_horovod.fleet.gpu_types import FIRST_TENSORFLOW_FOR_HOPPER, HOPPER, TURING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constructs import Construct

    from cdk_horovod.fleet.gpu_types import GpuInstanceType
    from cdk_horovod.resources.image import TrainingImage

_NEWER = ".".join(map(str, FIRST_TENSORFLOW_FOR_HOPPER))


def check_image_fits(scope: Construct, *, image: TrainingImage, instance_types: Sequence[GpuInstanceType]) -> None:
    """
    Refuse an image whose framework has no code for the GPUs; add a warning to *scope* if its framework is unknown.

    Raises:
        ValueError: If the image is known to lack the code.
    """
    if image.torch is not None:
        # Every PyTorch built with CUDA 13 has code for Hopper.
        old = ", ".join(row.name for row in instance_types if row.gpu.compute_capability < TURING)
        if old:
            raise ValueError(
                f"'image' must have TensorFlow for {old}, whose GPUs CUDA 13 no longer knows, got PyTorch "
                f"{'.'.join(map(str, image.torch))}, which is built with it; leave 'instance_types' without {old}"
            )
        return
    names = ", ".join(row.name for row in instance_types if row.gpu.compute_capability >= HOPPER)
    if not names:
        return
    version = image.tensorflow
    if version is None:
        Annotations.of(scope).add_warning_v2(
            "cdk-horovod:HopperImage",
            f"{names} need an image with TensorFlow {_NEWER} or newer, which cannot be seen from here; an older one "
            "compiles its kernels on every new node, for 30 minutes or longer.",
        )
    elif version < FIRST_TENSORFLOW_FOR_HOPPER:
        raise ValueError(
            f"'image' must have TensorFlow {_NEWER} or newer for {names}, got {'.'.join(map(str, version))}, which "
            "compiles its kernels on every new node, for 30 minutes or longer; use "
            "TrainingImage.from_profile(NEWER_PROFILE), or set horovod:image_profile=newer"
        )
