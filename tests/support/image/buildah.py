"""
The training image, built with buildah and run without a container engine.

buildah's chroot isolation builds where no container can be started. The built image runs the same way: chroot into its
root file system, with the user, environment, entry point and mounts that Docker would give it on the host's network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.image.debian import CACHE, SUITE, base_root, require

STORAGE = CACHE / "containers"
BASE_IMAGE = f"localhost/debian:{SUITE}"
STORAGE_LIMIT = 20 * 1024**3
"""Bytes: some builds of both profiles. Past it the storage is emptied, and the next build is a whole one."""


@dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """
    An image whose root file system is mounted.

    Args:
        root: Where it is mounted.
        config: What the image says of itself, as OCI's image configuration has it.
        bytes: Size of its layers, unpacked.
    """

    root: Path
    config: Mapping[str, Any]
    bytes: int

    def command(
        self, words: Sequence[str] = (), *, environment: Mapping[str, str], volumes: Mapping[Path, str]
    ) -> list[str]:
        """
        Spell the command that does what `docker run --network host` would.

        Args:
            words: Replace the image's entry point.
            environment: Added to the image's own.
            volumes: Folders of the host, by where they appear inside.
        """
        mounts = [f"mount -t proc proc {self.root}/proc", f"mount --rbind /dev {self.root}/dev"]
        for outside, inside in {Path("/etc/hosts"): "/etc/hosts", **volumes}.items():
            mounts.append(f"mount --bind {outside} {self.root}{inside}")
        users = [line.split(":") for line in (self.root / "etc/passwd").read_text().splitlines()]
        _, _, uid, gid, _, home, _ = next(user for user in users if user[0] == self.config["User"])
        return [
            # Mounts and processes of its own: whatever is started in the image ends with it.
            *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
            *("/bin/sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"),
            *("chroot", f"--userspec={uid}:{gid}", str(self.root)),
            *("/usr/bin/env", "--ignore-environment", f"--chdir={self.config['WorkingDir']}", f"HOME={home}"),
            *self.config["Env"],
            *(f"{name}={value}" for name, value in environment.items()),
            *(words or self.config["Entrypoint"]),
        ]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the image instead of its entry point."""
        command = self.command(words, environment={}, volumes={})
        return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def built(
    context: Path, *, name: str, arguments: Mapping[str, str], volumes: Mapping[Path, str], log: Path
) -> Iterator[BuiltImage]:
    """
    Build the image in *context* on a Debian base, and mount it.

    Layers are kept for the next time, so that only what changed is built again.

    Args:
        context: Folder with the Dockerfile.
        name: Of the image, in this storage.
        arguments: Build arguments beside the base images.
        volumes: What of the host is there while it is built, by where it appears inside; read only.
        log: File for what the build prints.
    """
    require("buildah")
    image = f"localhost/cdk-horovod-node:{name}"
    if STORAGE.exists() and int(_output("du", "--summarize", "--block-size=1", STORAGE).split()[0]) > STORAGE_LIMIT:
        shutil.rmtree(STORAGE)
    # What a killed session left mounted.
    _output(*_buildah("rm", "--all"))
    if subprocess.run(_buildah("inspect", "--type", "image", BASE_IMAGE), capture_output=True, check=False).returncode:
        _import_base()
    build = _buildah("bud", "--isolation", "chroot", "--layers", "--pull-never", "--tag", image)
    for argument, value in {"BASE_IMAGE": BASE_IMAGE, "CUDA_IMAGE": BASE_IMAGE, **arguments}.items():
        build += ["--build-arg", f"{argument}={value}"]
    for outside, inside in volumes.items():
        build += ["--volume", f"{outside}:{inside}:ro"]
    with log.open("w") as output:
        made = subprocess.run(["nice", *build, str(context)], stdout=output, stderr=output, check=False)
    if made.returncode != 0:
        pytest.fail(f"the image build failed:\n{log.read_text()[-4000:]}", pytrace=False)

    container = _output(*_buildah("from", "--pull-never", image))
    try:
        root = Path(_output(*_buildah("mount", container)))
        # A container engine puts the host's own in its place.
        (root / "etc/hosts").touch()
        facts = json.loads(_output(*_buildah("inspect", "--type", "image", image)))
        size = int(_output("du", "--summarize", "--block-size=1", root).split()[0])
        yield BuiltImage(root=root, config=facts["OCIv1"]["config"], bytes=size)
    finally:
        _output(*_buildah("rm", container))
        # The overlay driver leaves its own folder mounted on itself.
        subprocess.run(["umount", STORAGE / "overlay"], capture_output=True, check=False)


def _import_base() -> None:
    base = base_root()
    container = _output(*_buildah("from", "scratch"))
    _output("cp", "--archive", f"{base}/.", _output(*_buildah("mount", container)))
    _output(*_buildah("commit", "--quiet", "--rm", container, BASE_IMAGE))


def _buildah(*words: str) -> list[str]:
    # vfs copies the whole root file system for each layer; it is for kernels without overlay.
    driver = "overlay" if "overlay" in Path("/proc/filesystems").read_text() else "vfs"
    place = ["--root", str(STORAGE), "--runroot", "/run/cdk-horovod-tests", "--storage-driver", driver]
    return ["buildah", *place, *words]


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
