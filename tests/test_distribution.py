"""What `pip install` brings: typed packages and the image's build context, in the same bytes from each build."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from support.installed_wheel import Installation, install
from support.synthesis import REPOSITORY, image_hashes, synthesise

PACKAGES = ("cdk_horovod", "horovod_client", "horovod_local", "horovod_node")
CONTEXT = "cdk_horovod/training_image/"


def build(project: Path, out: Path) -> Path:
    """Build wheel and sdist of the project in a folder."""
    hatchling = Path(sys.executable).with_name("hatchling")
    subprocess.run([hatchling, "build", "-d", out], cwd=project, capture_output=True, check=True)
    return out


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with wheel and sdist of this repository."""
    return build(REPOSITORY, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_builds_are_the_same_byte_for_byte(dist: Path, tmp_path: Path) -> None:
    """A build of the same files elsewhere, at another time and under another umask, gives the same bytes."""
    # GIVEN the files of the sdist, in another folder
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (copy,) = tmp_path.iterdir()
    (copy / "PKG-INFO").unlink()  # written by the build, as it will be again
    for path in copy.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(path.stat().st_mode & 0o700)

    # WHEN
    again = build(copy, tmp_path / "again")

    # THEN
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (dist, again))
    assert first.keys() == second.keys()
    assert [name for name in first if second[name] != first[name]] == []


def test_every_package_is_typed(wheel: Path) -> None:
    """The wheel holds the library's packages, each with the marker of PEP 561, and nothing else beside its metadata."""
    # WHEN
    found = names(wheel)

    # THEN
    tops = {name.partition("/")[0] for name in found}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(found)


def test_wheel_has_the_build_context_of_the_image(wheel: Path) -> None:
    """Every file from which Docker builds the image is in the wheel, with the same bytes."""
    # GIVEN
    source = REPOSITORY / "training_image"
    files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]

    # WHEN
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.removeprefix(CONTEXT): archive.read(name) for name in archive.namelist() if name.startswith(CONTEXT)
        }

    # THEN
    assert packed == {str(path.relative_to(source)): path.read_bytes() for path in files}


def test_metadata_is_that_of_the_project(wheel: Path) -> None:
    """The wheel has the project's name, version, licence and Python, and the licence's text."""
    # GIVEN
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    info = f"cdk_horovod-{project['version']}.dist-info"

    # WHEN
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        licence = archive.read(f"{info}/licenses/LICENSE")

    # THEN
    told = {key: metadata[key] for key in ("Name", "Version", "License-Expression", "Requires-Python")}
    assert [*told.values()] == [project[key] for key in ("name", "version", "license", "requires-python")]
    assert licence == (REPOSITORY / "LICENSE").read_bytes()


APP = """
import aws_cdk as cdk
from cdk_horovod import TORCH_PROFILE, Engine, HorovodTraining, TrainingImage, TrainingStorage

app = cdk.App()
stack = cdk.Stack(app, "Own")
for name, image in {"Default": None, "Torch": TrainingImage.from_profile(TORCH_PROFILE)}.items():
    storage = TrainingStorage(stack, f"{name}Storage")
    engine = Engine.sagemaker(instance_types=["ml.g5.xlarge"], max_gpus=8)
    HorovodTraining(stack, name, storage=storage, engine=engine, image=image)
app.synth()
"""


@pytest.fixture(scope="session")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An environment with the wheel and what it requires, outside of the repository."""
    return install(wheel, tmp_path_factory.mktemp("installation"))


@pytest.fixture(scope="session")
def own_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app of a user's own, outside of the repository."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "app.py").write_text(APP)
    (folder / "cdk.json").write_text('{"app": "python app.py", "context": {}}')
    return folder


@pytest.fixture(scope="session")
def images(own_app: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Asset hashes of that app's images, synthesised with this checkout's constructs."""
    out = tmp_path_factory.mktemp("checkout") / "cdk.out"
    synthesise(out, app=own_app)
    return image_hashes(out, "Own")


@pytest.mark.slow
@pytest.mark.synth
def test_stack_of_ones_own_is_synthesised_from_the_wheel(
    installation: Installation, own_app: Path, images: set[str], tmp_path: Path
) -> None:
    """`cdk synth` outside of the repository makes the same images from the wheel as from a checkout."""
    # WHEN
    installation.run("cdk", "synth", "--quiet", "--output", str(tmp_path), cwd=own_app)

    # THEN it was the installed library
    assert installation.origin("cdk_horovod").is_relative_to(installation.folder)
    # AND both images are the same, and complete
    hashes = image_hashes(tmp_path, "Own")
    assert len(hashes) == 2
    assert hashes == images
    for digest in hashes:
        staged = {path.name for path in (tmp_path / f"asset.{digest}").iterdir()}
        assert {"Dockerfile", "build_horovod.sh", "horovod_node", "requirements.txt"} <= staged
        assert "requirements.in" not in staged


@pytest.mark.slow
@pytest.mark.synth
def test_editable_installation_builds_the_same_images(
    dist: Path, own_app: Path, images: set[str], tmp_path: Path
) -> None:
    """An editable installation takes the build context from its checkout."""
    # GIVEN an editable installation of an unpacked sdist
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "checkout", filter="data")
    (checkout,) = (tmp_path / "checkout").iterdir()
    editable = install(checkout, tmp_path / "installation", editable=True)

    # WHEN
    editable.run("cdk", "synth", "--quiet", "--output", str(tmp_path / "cdk.out"), cwd=own_app)

    # THEN
    assert editable.origin("cdk_horovod").is_relative_to(checkout)
    assert image_hashes(tmp_path / "cdk.out", "Own") == images
