"""
A Debian root file system made with debootstrap: the base image of the image tests.

It takes packages from where this machine takes them (apt's own mirror, pip's own index and certificates), so that no
host name stands in the repository. What it needs for that goes into the root, never into the Dockerfile.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = "bookworm"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdk-horovod"
HOST_CERTIFICATES = "etc/ssl/host-certificates.crt"

# pip's settings that say how to reach an index; the rest (local folders, constraints) is this machine's own business.
PIP_REACH = ("index-url", "proxy", "trusted-host", "timeout", "default-timeout")


def require(*programs: str) -> None:
    """Fail with the package to install when one of *programs*, each named like its Debian package, is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.fail(f"missing: {', '.join(missing)}; run: apt-get install --yes {' '.join(missing)}", pytrace=False)
    if os.geteuid() != 0:
        pytest.fail("chroot, debootstrap and buildah's chroot isolation need root", pytrace=False)


def base_root() -> Path:
    """Give the cached root file system of `SUITE`, made on first use (about a minute); callers must not change it."""
    require("debootstrap")
    root = CACHE / "debootstrap" / SUITE
    root.parent.mkdir(parents=True, exist_ok=True)
    # Two test processes come here at once. Without the lock, one removes what the other is just making.
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _make(root)
    return root


def _make(root: Path) -> None:
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    # ca-certificates, because the Dockerfile installs it and would otherwise replace the host's.
    command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(partial), _mirror()]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.fail(f"debootstrap failed:\n{made.stdout[-2000:]}{made.stderr[-2000:]}", pytrace=False)
    shutil.rmtree(partial / "var/cache/apt/archives", ignore_errors=True)
    _reach_like_host(partial)
    partial.rename(root)


def _mirror() -> str:
    """Read from apt where this machine takes `SUITE` from."""
    command = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sites = [site for release, _, site in (line.partition(" ") for line in listed.splitlines()) if release == SUITE]
    if not sites:
        pytest.fail(f"apt has no source for Debian {SUITE}, which the base image is made from", pytrace=False)
    return sites[0]


def wheel_folders() -> list[Path]:
    """List the folders of this machine in which pip looks for wheels (find-links)."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    lines = [line.partition("=") for line in listed.stdout.splitlines()]
    found = {word for key, _, value in lines if key.endswith("find-links") for word in value.strip("'").split()}
    return sorted(path for path in map(Path, found) if path.is_dir())


def _reach_like_host(root: Path) -> None:
    """Let pip and apt inside *root* trust and use what they trust and use outside."""
    found = (os.environ.get("PIP_CERT"), os.environ.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt")
    bundle = next(path for path in found if path and Path(path).exists())
    shutil.copy(bundle, root / HOST_CERTIFICATES)

    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = {"cert": f"/{HOST_CERTIFICATES}"}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in PIP_REACH:
            settings[name.removeprefix("default-")] = value.strip("'")
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (root / "etc/pip.conf").write_text(f"[global]\n{lines}")

    dump = ["apt-config", "dump", "Acquire::http", "Acquire::https"]
    reach = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    (root / "etc/apt/apt.conf.d/90host").write_text(f'{reach}Acquire::https::CAInfo "/{HOST_CERTIFICATES}";\n')
