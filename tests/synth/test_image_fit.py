"""Images whose TensorFlow has no code for a fleet's GPUs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from aws_cdk import Stack
from aws_cdk.assertions import Annotations, Match

from cdk_horovod import NEWER_PROFILE, TORCH_PROFILE, TrainingImage
from cdk_horovod.engines.image_fit import check_image_fits
from cdk_horovod.fleet.gpu_types import GPU_INSTANCE_TYPES, gpu_instance_type
from support.synthesis import REPOSITORY

pytestmark = pytest.mark.synth

FOLDER = REPOSITORY / "training_image"
VOLTA = ["p3.2xlarge", "p3.8xlarge", "p3.16xlarge", "p3dn.24xlarge"]
HOPPER = ["p5.4xlarge", "p5.48xlarge", "p5e.48xlarge", "p5en.48xlarge"]


def checked(image: TrainingImage, *names: str) -> Annotations:
    """Check *image* for types of these *names*, and give what CDK would say."""
    stack = Stack()
    check_image_fits(stack, image=image, instance_types=[gpu_instance_type(name) for name in names])
    return Annotations.from_stack(stack)


@pytest.mark.parametrize("name", HOPPER)
def test_default_image_is_refused_on_hopper(name: str) -> None:
    """The default image is refused on Hopper: its TensorFlow would compile for half an hour on each node."""
    with pytest.raises(ValueError, match="TensorFlow") as refused:
        checked(TrainingImage.from_profile(), name)
    assert str(refused.value).startswith(f"'image' must have TensorFlow 2.17 or newer for {name}, got 2.15.1, which ")


def test_newer_profile_fits_every_type() -> None:
    """The `newer` profile has code for every type, and brings no message."""
    image = TrainingImage.from_profile(NEWER_PROFILE)
    checked(image, *GPU_INSTANCE_TYPES).has_no_warning("*", Match.any_value())


def test_torch_profile_fits_every_type_but_those_that_cuda_13_has_left() -> None:
    """The profile of PyTorch, built with CUDA 13, has code for Hopper and none for V100."""
    image = TrainingImage.from_profile(TORCH_PROFILE)
    checked(image, *GPU_INSTANCE_TYPES.keys() - set(VOLTA)).has_no_warning("*", Match.any_value())
    for name in VOLTA:
        with pytest.raises(ValueError, match="CUDA 13") as refused:
            checked(image, name, "g5.xlarge")
        assert str(refused.value).startswith(f"'image' must have TensorFlow for {name}, whose GPUs CUDA 13 no longer ")


def test_default_image_fits_every_other_type() -> None:
    """The default image has code for every type but Hopper's."""
    others = GPU_INSTANCE_TYPES.keys() - set(HOPPER)
    checked(TrainingImage.from_profile(), *others).has_no_warning("*", Match.any_value())


def test_unknown_image_is_warned_of_on_hopper(tmp_path: Path) -> None:
    """An image whose content synthesis cannot see, in ECR or of another Dockerfile, brings a warning."""
    # GIVEN
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    uri = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/train:1"
    for image in (TrainingImage.from_asset(tmp_path), TrainingImage.from_uri(uri)):
        # WHEN
        said = checked(image, "p5.48xlarge", "g5.xlarge")
        # THEN
        said.has_warning("*", Match.string_like_regexp("^p5.48xlarge need an image with TensorFlow 2.17 or newer"))
        checked(image, "g5.xlarge").has_no_warning("*", Match.any_value())


def test_horovod_is_compiled_for_every_gpu() -> None:
    """The image has Horovod's code for the GPU of every type, V100 included."""
    (listed,) = re.findall(r"^ARG HOROVOD_BUILD_CUDA_CC_LIST=(\S+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    known = {row.gpu.compute_capability for row in GPU_INSTANCE_TYPES.values()}
    assert set(map(int, listed.split(","))) == known
    # AND in the profile with CUDA 13 all but V100
    assert set(map(int, TORCH_PROFILE["HOROVOD_BUILD_CUDA_CC_LIST"].split(","))) == known - {70}


@pytest.mark.parametrize(("name", "profile"), [("newer", NEWER_PROFILE), ("torch", TORCH_PROFILE)])
def test_profile_is_the_dockerfiles(name: str, profile: Mapping[str, str]) -> None:
    """The build arguments of each profile are those of the Dockerfile's table."""
    (row,) = re.findall(
        rf"^#   {name} +(\S+)((?:(?: +|\n# +)[A-Z_]+=\S+)+)", (FOLDER / "Dockerfile").read_text(), re.MULTILINE
    )
    assert dict(profile) == {"REQUIREMENTS": row[0], **dict(re.findall(r"([A-Z_]+)=(\S+)", row[1]))}


def test_cuda_comes_by_digest() -> None:
    """The CUDA image is named by digest, because NVIDIA removes and rebuilds tags."""
    assert re.search(r"^ARG CUDA_IMAGE=\S+@sha256:[0-9a-f]{64}$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
