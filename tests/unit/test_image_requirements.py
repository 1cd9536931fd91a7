"""The training image's requirement files agree with each other and with the Dockerfile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.synthesis import REPOSITORY

FOLDER = REPOSITORY / "training_image"
LOCKED = [
    "requirements",
    "requirements-cpu",
    "requirements-newer",
    "requirements-newer-cpu",
    "requirements-torch",
    "requirements-torch-cpu",
    "requirements-build",
    "requirements-torch-build",
]


def pins(name: str) -> dict[str, str]:
    """Read a lock file as package to version."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", (FOLDER / f"{name}.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKED)
def test_lock_files_pin_everything_by_hash(name: str) -> None:
    """Each package has one exact version and at least one digest, and no file says where packages come from."""
    text = (FOLDER / f"{name}.txt").read_text()
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(name))
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", text) == []


@pytest.mark.parametrize("name", LOCKED)
def test_lock_files_hold_what_was_asked_for(name: str) -> None:
    """Each lock file was compiled from its .in file as it is now."""
    # GIVEN
    lines = (FOLDER / f"{name}.in").read_text().splitlines()
    if "-r requirements-common.in" in lines:
        lines += (FOLDER / "requirements-common.in").read_text().splitlines()

    # WHEN
    found = (re.match(r"([a-z][a-z0-9-]*)(?:\[[a-z,-]+\])?(?:==(\S+))?", line) for line in lines)
    asked = [match for match in found if match]

    # THEN
    locked = pins(name)
    assert asked
    assert [match[1] for match in asked if match[1] not in locked] == []
    assert [match[0] for match in asked if match[2] and locked[match[1]] != match[2]] == []


@pytest.mark.parametrize(
    ("gpu", "cpu"), [("requirements", "requirements-cpu"), ("requirements-newer", "requirements-newer-cpu")]
)
def test_cpu_profiles_differ_only_in_tensorflow_and_cuda(gpu: str, cpu: str) -> None:
    """The tested CPU image and the GPU image differ only in TensorFlow's build and CUDA."""
    renamed = {name.replace("tensorflow-cpu", "tensorflow"): version for name, version in pins(cpu).items()}

    assert renamed == {name: version for name, version in pins(gpu).items() if not name.startswith("nvidia-")}


def test_torch_profiles_differ_only_in_cuda() -> None:
    """The tested CPU image with PyTorch and the GPU image differ only in its build and CUDA."""
    cpu, gpu = pins("requirements-torch-cpu"), pins("requirements-torch")
    assert cpu.pop("torch") == f"{gpu.pop('torch')}+cpu"
    of_cuda = {"cuda-bindings", "cuda-pathfinder", "cuda-toolkit", "triton"}
    assert cpu == {name: version for name, version in gpu.items() if name not in of_cuda and "nvidia-" not in name}


def test_torch_is_compiled_for_with_its_own_cuda() -> None:
    """Horovod is compiled with the CUDA of PyTorch, because both run in one process."""
    build, run = pins("requirements-torch-build"), pins("requirements-torch")
    shared = {name: version for name, version in build.items() if name in run and name.startswith(("cuda", "nvidia"))}
    assert shared == {name: run[name] for name in ("cuda-toolkit", "nvidia-cuda-runtime")}
    of_cuda = {name for name in build if name.startswith(("cuda", "nvidia"))}
    assert {name: build[name] for name in build.keys() - of_cuda} == pins("requirements-build")


def test_dockerfile_copies_only_what_the_context_holds() -> None:
    """Every file that the Dockerfile copies passes .dockerignore and exists."""
    # WHEN
    dockerfile = (FOLDER / "Dockerfile").read_text()
    defaults = dict(re.findall(r"^ARG (\w*REQUIREMENTS)=(\S+)$", dockerfile, re.MULTILINE))
    copied = [
        re.sub(r"\$\{(\w+)\}", lambda argument: defaults[argument[1]], source)
        for source in re.findall(r"^COPY (?!--from)(\S+) \S+$", dockerfile, re.MULTILINE)
    ]
    allowed = [line[1:] for line in (FOLDER / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    # THEN
    assert sorted(copied) == ["build_horovod.sh", "horovod_node", "requirements-build.txt", "requirements.txt"]
    assert [name for name in copied if not any(Path(name).match(pattern) for pattern in allowed)] == []
    assert [name for name in copied if not (FOLDER / name).exists()] == []


def test_dockerfile_names_every_profile() -> None:
    """The Dockerfile's table names each requirement file that can be built, by itself or with -cpu."""
    dockerfile = (FOLDER / "Dockerfile").read_text()

    assert [name for name in LOCKED if name.removesuffix("-cpu") + ".txt" not in dockerfile] == []
