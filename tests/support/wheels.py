"""Writes wheels that pip installs, for tests of a user's requirements."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_wheel(
    folder: Path, name: str, version: str = "1.0", *, files: Mapping[str, str], requires: Iterable[str] = ()
) -> Path:
    """
    Write a wheel of pure Python ("Binary distribution format", PyPA specifications).

    Args:
        folder: Where to; made if it is not there.
        name: Of the distribution, with underscores.
        version: Of the distribution.
        files: What it installs, by path; a file `SCRIPTS` is its `entry_points.txt`.
        requires: What it depends on.
    """
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    content = {(f"{info}/entry_points.txt" if path == "SCRIPTS" else path): text for path, text in files.items()}
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    content[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return wheel
