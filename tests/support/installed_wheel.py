"""An environment of its own in which only this library is installed, beside the packages that it requires."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

OURS = ("cdk_horovod", "_cdk_horovod", "__editable__")
"""How files of this library begin in the environment of development, which has it editable."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """
    An environment.

    Args:
        folder: Of the environment.
    """

    folder: Path

    def origin(self, package: str) -> Path:
        """Say where the environment imports a package from."""
        program = f"import {package}; print({package}.__file__)"
        return Path(self.run("python", "-c", program, cwd=self.folder).strip())

    def run(self, *command: str, cwd: Path) -> str:
        """Run a program of the environment, or of the machine; return what it printed. Fails if the program does."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHONPATH"))}
        done = subprocess.run(
            command,
            cwd=cwd,
            env={
                **kept,
                "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


def install(distribution: Path, folder: Path, *, editable: bool = False) -> Installation:
    """
    Install a wheel or a source folder with pip, which checks that all that it requires is there, and downloads nothing.

    The environment takes the other packages from that of this process, in which versions are locked.

    Args:
        distribution: The wheel, or the folder.
        folder: Of the environment; made here.
        editable: Whether to install the folder in place.
    """
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    others = folder / "others"
    others.mkdir()
    spec = find_spec("aws_cdk")
    assert spec is not None
    assert spec.origin is not None
    for path in Path(spec.origin).parents[1].iterdir():
        if not path.name.startswith(OURS):
            (others / path.name).symlink_to(path)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "venv" / "lib" / version / "site-packages" / "others.pth").write_text(f"{others}\n")
    installation = Installation(folder=folder / "venv")
    options = ["--no-build-isolation", "--editable"] if editable else []
    installation.run(
        *("python", "-m", "pip", "install", "--quiet", "--no-index", "--no-compile", "--disable-pip-version-check"),
        *(*options, str(distribution)),
        cwd=folder,
    )
    return installation
