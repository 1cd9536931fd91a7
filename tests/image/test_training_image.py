"""The training image, built for real: what is in it, and a whole run in which its entry point is the nodes."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from horovod_local import LocalCloud
from support.image.buildah import BuiltImage
from support.image.profile import Profile
from support.local_cloud.deployment import SETTINGS, Deployment, facts, wait
from support.synthesis import REPOSITORY, synthesise

# The first build compiles Horovod.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

BUILD_TOOLS = {"as", "c++", "cc", "cmake", "g++", "gcc", "ld", "make", "nvcc"}
REMOTE_SHELLS = {"dropbear", "rlogind", "rshd", "ssh", "sshd", "telnetd"}


@pytest.fixture(scope="module")
def app(training_image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """`app.py` in a local cloud whose instances run the image."""
    # GIVEN a program that enters the image, where the local cloud expects Python
    folder = tmp_path_factory.mktemp("cloud")
    told = folder / "image.json"
    told.write_text(json.dumps(asdict(training_image), default=str))
    node = folder / "node"
    words = [sys.executable, "-m", "support.image.node_in_image", str(told)]
    path = os.pathsep.join([str(REPOSITORY / "tests"), *sys.path])
    node.write_text(f"#!/bin/sh\nPYTHONPATH={shlex.quote(path)} exec {shlex.join(words)}\n")
    node.chmod(0o755)
    # WHEN
    synthesise(folder / "cdk.out", settings=SETTINGS)
    with LocalCloud(home=folder / "home", node_python=str(node)) as cloud:
        cloud.deploy(folder / "cdk.out")
        yield Deployment(cloud=cloud)


def programs(image: BuiltImage) -> set[str]:
    """Name every program in the folders that programs lie in."""
    folders = ["bin", "sbin", "usr/bin", "usr/sbin", "usr/lib", "usr/libexec", "usr/local/bin", "opt/venv/bin"]
    return {path.name for folder in folders for path in (image.root / folder).iterdir() if os.access(path, os.X_OK)}


def test_runs_as_a_user_of_its_own(training_image: BuiltImage) -> None:
    """The node's process is not root, and owns the folder that it trains in."""
    assert training_image.config["User"] == "horovod"
    assert training_image.run("id", "--user").stdout == "1000\n"
    assert training_image.run("stat", "--format=%U", "/opt/ml").stdout == "horovod\n"


def test_starts_the_agent(training_image: BuiltImage) -> None:
    """Without a node's environment the entry point says what is missing, which proves that the agent is there."""
    ended = training_image.run()

    assert training_image.config["Entrypoint"] == ["python", "-m", "horovod_node"]
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "CDK_HOROVOD_" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_holds_no_compiler(training_image: BuiltImage) -> None:
    """What compiled Horovod stayed in the build stage."""
    assert "python3.11" in programs(training_image)
    assert programs(training_image) & BUILD_TOOLS == set()


def test_holds_no_remote_shell(training_image: BuiltImage) -> None:
    """Nodes meet through the ledger: there is nothing to log in to."""
    assert programs(training_image) & REMOTE_SHELLS == set()


def test_holds_no_package_cache(training_image: BuiltImage) -> None:
    """Neither apt nor pip left what it had downloaded."""
    kept = [training_image.root / folder for folder in ("var/lib/apt/lists", "root/.cache", "home/horovod/.cache")]

    assert [str(file) for folder in kept if folder.exists() for file in folder.rglob("*") if file.is_file()] == []


def test_packages_fit_together(training_image: BuiltImage) -> None:
    """pip finds every requirement met."""
    checked = training_image.run("pip", "check")

    assert (checked.returncode, checked.stdout) == (0, "No broken requirements found.\n")


def test_horovod_is_what_was_asked_for(training_image: BuiltImage, profile: Profile) -> None:
    """Horovod loads its compiled half against the profile's framework: Gloo and, on CPUs, no NCCL."""
    script = (
        f"{profile.probe};import horovod;"
        "print(horovod.__version__, hvd.gloo_built(), hvd.nccl_built(), hvd.mpi_built())"
    )

    assert training_image.run("python", "-c", script).stdout == f"{profile.found}\n0.28.1 True 0 False\n"


def test_prints_its_size(training_image: BuiltImage, profile: Profile, capsys: pytest.CaptureFixture[str]) -> None:
    """The framework is three quarters of it; what else there is must stay small."""
    with capsys.disabled():
        print(f"\ntraining image, profile {profile.name}, for CPUs: {training_image.bytes / 1e6:.0f} MB unpacked")

    assert training_image.bytes < profile.megabytes * 1e6


def test_trains_a_model(app: Deployment, profile: Profile) -> None:
    """Two instances run the image's entry point until the model is in S3 and the fleet is at zero."""
    # WHEN
    run = app.start(profile.script, gpus=2)
    ended = wait(run)

    # THEN
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    assert facts(app.model(run)) == {"difference": 0.0, "ranks": 2, "arguments": []}
    assert app.instances_left() == []
