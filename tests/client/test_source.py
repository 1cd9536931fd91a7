"""What is packaged of the user's code, and that it is always the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from horovod_client import InvalidInput
from horovod_client.source import SOURCE_LIMIT_BYTES, SourcePackage, package_source

WriteFiles = Callable[[dict[str, str]], Path]


def contents(package: SourcePackage) -> dict[str, bytes]:
    """Read every file of a package."""
    with tarfile.open(fileobj=io.BytesIO(package.archive)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr] # files


def test_packages_a_script_alone(write_files: WriteFiles) -> None:
    """Without a folder the package is the script, at its top, and nothing beside it."""
    # GIVEN
    folder = write_files({"jobs/train.py": "print(1)", "jobs/secret.txt": "no"})

    # WHEN
    package = package_source(folder / "jobs" / "train.py")

    # THEN
    assert package.entry_point == "train.py"
    assert contents(package) == {"train.py": b"print(1)"}


def test_packages_a_folder(write_files: WriteFiles) -> None:
    """With a folder the package is the folder, and the script's path inside of it."""
    # GIVEN
    folder = write_files({"jobs/train.py": "print(1)", "model.py": "x = 1", "jobs/__pycache__/train.pyc": ""})

    # WHEN
    package = package_source("./jobs/train.py", source_dir=folder)

    # THEN
    assert package.entry_point == "jobs/train.py"
    assert contents(package) == {"jobs/train.py": b"print(1)", "model.py": b"x = 1"}


@pytest.mark.parametrize(("requirements", "packaged"), [(True, True), (False, False)])
def test_packages_ignored_wheels_for_requirements(write_files: WriteFiles, requirements: bool, packaged: bool) -> None:
    """Nodes install the folder's requirements.txt from its wheels, which many a .gitignore names."""
    # GIVEN
    files = {"train.py": "t", ".gitignore": "wheels/\n", "wheels/a-1.0-py3-none-any.whl": "a", "wheels/log.txt": "l"}
    folder = write_files(files | ({"requirements.txt": "a"} if requirements else {}))

    # WHEN
    package = package_source("train.py", source_dir=folder)

    # THEN
    wheels = {name for name in contents(package) if name.startswith("wheels/")}
    assert wheels == ({"wheels/a-1.0-py3-none-any.whl"} if packaged else set())


def test_packages_the_same_files_into_the_same_bytes(write_files: WriteFiles) -> None:
    """Times, owners and the order of creation change nothing; the digest is of the files, not of the compression."""
    # GIVEN
    folder = write_files({"b.py": "b", "a/c.py": "c", "train.py": "t"})
    first = package_source("train.py", source_dir=folder)
    moved = folder.rename(folder.with_name("moved"))
    (moved / "train.py").unlink()
    (moved / "train.py").write_text("t")
    os.utime(moved / "b.py", (time.time() - 1e6,) * 2)

    # WHEN
    second = package_source("train.py", source_dir=moved)

    # THEN
    assert second == first
    assert first.digest == hashlib.sha256(gzip.decompress(first.archive)).hexdigest()


def test_packages_other_files_under_another_digest(write_files: WriteFiles) -> None:
    """A changed byte, a changed name and a program that may be executed are other packages."""
    # GIVEN
    folder = write_files({"train.py": "t", "run.sh": "s"})
    digests = [package_source("train.py", source_dir=folder).digest]

    # WHEN
    for change in (
        lambda: (folder / "run.sh").chmod(0o755),
        lambda: (folder / "run.sh").rename(folder / "walk.sh"),
        lambda: (folder / "train.py").write_text("u"),
    ):
        change()
        digests.append(package_source("train.py", source_dir=folder).digest)

    # THEN
    assert len(set(digests)) == 4


def test_leaves_out_what_git_leaves_out(write_files: WriteFiles) -> None:
    """Files are chosen as git chooses them: nested ignore files, patterns that take back, folders above the source."""
    # GIVEN
    top = write_files(
        {
            ".gitignore": "*.npz\n!keep.npz\n",
            "outside.py": "",
            "src/.gitignore": "*.log\nvenv/\n/only-here.txt\n# a comment\n\nname\\ with\\ space.txt\n",
            "src/train.py": "",
            "src/data.npz": "",
            "src/keep.npz": "",
            "src/run.log": "",
            "src/only-here.txt": "",
            "src/name with space.txt": "",
            "src/ü.py": "",
            "src/venv/lib/x.py": "",
            "src/venv.py": "",
            "src/deep/.gitignore": "!run.log\nmodel-[0-9].h5\n**/cache/\n",
            "src/deep/run.log": "",
            "src/deep/model-1.h5": "",
            "src/deep/model-x.h5": "",
            "src/deep/only-here.txt": "",
            "src/deep/a/b/cache/c.py": "",
            "src/deep/a/b/c.py": "",
        }
    )
    subprocess.run(["git", "init", "--quiet", top], check=True)
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=top / "src",
        check=True,
        capture_output=True,
    )

    # WHEN
    package = package_source("train.py", source_dir=top / "src")

    # THEN
    assert set(contents(package)) == set(listing.stdout.decode().rstrip("\0").split("\0"))
    assert {"train.py", "keep.npz", "deep/run.log", "deep/model-x.h5", "deep/a/b/c.py"} < set(contents(package))
    assert {"data.npz", "run.log", "venv/lib/x.py", "deep/model-1.h5"}.isdisjoint(contents(package))


def test_packages_the_file_behind_a_link(write_files: WriteFiles, tmp_path: Path) -> None:
    """A link to a file becomes the file, because what it points to stays here."""
    # GIVEN
    folder = write_files({"train.py": "t"})
    (tmp_path / "shared.py").write_text("s")
    (folder / "shared.py").symlink_to(tmp_path / "shared.py")

    # WHEN
    package = package_source("train.py", source_dir=folder)

    # THEN
    assert contents(package) == {"train.py": b"t", "shared.py": b"s"}


def test_fails_when_a_link_leads_to_a_folder(write_files: WriteFiles, tmp_path: Path) -> None:
    """A link to a folder might lead in circles: it is refused, unless it is ignored."""
    # GIVEN
    folder = write_files({"train.py": "t"})
    (folder / "loop").symlink_to(tmp_path)

    # THEN
    with pytest.raises(InvalidInput, match=r"^cannot package '.*/loop', which is neither a file nor a folder: remove"):
        package_source("train.py", source_dir=folder)
    (folder / ".gitignore").write_text("loop\n")
    assert set(contents(package_source("train.py", source_dir=folder))) == {".gitignore", "train.py"}


@pytest.mark.parametrize(
    ("entry_point", "sentence"),
    [
        ("other.py", r"'entry_point' must be a file in 'source_dir' \('.*'\), got 'other.py'"),
        ("jobs", r"'entry_point' must be a file in 'source_dir' \('.*'\), got 'jobs'"),
        ("draft.py", r"'entry_point' must be packaged, but a .gitignore ignores it or .*, got 'draft.py'"),
        ("../outside.py", r"'entry_point' must be packaged, but .* it is outside '.*', got '../outside.py'"),
    ],
)
def test_fails_when_the_script_is_not_in_the_package(
    write_files: WriteFiles, tmp_path: Path, entry_point: str, sentence: str
) -> None:
    """A script that would be missing on the nodes is named, with the reason."""
    # GIVEN
    folder = write_files({".gitignore": "draft.py\n", "draft.py": "", "jobs/train.py": ""})
    (tmp_path / "outside.py").write_text("")

    # THEN
    with pytest.raises(InvalidInput, match=f"^{sentence}$"):
        package_source(entry_point, source_dir=folder)


def test_fails_when_the_script_cannot_be_read(tmp_path: Path) -> None:
    """A script that is missing, or no file, or a folder that is none, is named."""
    with pytest.raises(InvalidInput, match=r"^cannot read '.*/missing.py': No such file or directory$"):
        package_source(tmp_path / "missing.py")
    with pytest.raises(InvalidInput, match=rf"^cannot read '{tmp_path}': Is a directory$"):
        package_source(tmp_path)
    with pytest.raises(InvalidInput, match=r"^'source_dir' must be a folder, got '.*/missing'$"):
        package_source("train.py", source_dir=tmp_path / "missing")


def test_fails_when_the_folder_holds_data(write_files: WriteFiles) -> None:
    """A folder with a data set in it is refused before it is read, naming the file to blame."""
    # GIVEN
    folder = write_files({"train.py": "t"})
    with (folder / "digits.npz").open("wb") as sparse:
        sparse.truncate(SOURCE_LIMIT_BYTES)

    # THEN
    with pytest.raises(
        InvalidInput,
        match=r"^'source_dir' must hold at most 256 MiB of code, got 256 MiB, most of it in 'digits.npz': keep data in",
    ):
        package_source("train.py", source_dir=folder)
