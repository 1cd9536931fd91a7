"""What is packaged of the user's code, and that it always gives the same bytes."""

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
from horovod_client.submit.source import SOURCE_LIMIT_BYTES, SourcePackage, package_source
from horovod_node import contract

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
    """Wheels that .gitignore excludes are packaged beside a requirements.txt, which nodes install from them."""
    # GIVEN
    files = {"train.py": "t", ".gitignore": "wheels/\n", "wheels/a-1.0-py3-none-any.whl": "a", "wheels/log.txt": "l"}
    folder = write_files(files | ({"requirements.txt": "a"} if requirements else {}))

    # WHEN
    package = package_source("train.py", source_dir=folder)

    # THEN
    wheels = {name for name in contents(package) if name.startswith("wheels/")}
    assert wheels == ({"wheels/a-1.0-py3-none-any.whl"} if packaged else set())


def test_packages_the_same_files_into_the_same_bytes(write_files: WriteFiles) -> None:
    """The bytes do not depend on times, owners or order of creation, and the digest not on the compression."""
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
    """A link to a file becomes the file, because its target stays on this machine."""
    # GIVEN
    folder = write_files({"train.py": "t"})
    (tmp_path / "shared.py").write_text("s")
    (folder / "shared.py").symlink_to(tmp_path / "shared.py")

    # WHEN
    package = package_source("train.py", source_dir=folder)

    # THEN
    assert contents(package) == {"train.py": b"t", "shared.py": b"s"}


def test_packages_the_folder_behind_a_link(write_files: WriteFiles, tmp_path: Path) -> None:
    """A link to a folder becomes the folder, to which `.gitignore` applies as to any other."""
    # GIVEN
    folder = write_files({"train.py": "t", ".gitignore": "data/\n"})
    for name, text in {"lib/model.py": "m", "lib/.gitignore": "*.h5\n", "lib/old.h5": "", "data/digits": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (folder / "lib").symlink_to(tmp_path / "lib")
    (folder / "data").symlink_to(tmp_path / "data")

    # WHEN
    package = package_source("lib/model.py", source_dir=folder)

    # THEN
    assert set(contents(package)) == {".gitignore", "lib/.gitignore", "lib/model.py", "train.py"}


def test_packages_folders_that_lie_deep(write_files: WriteFiles) -> None:
    """Folders may be nested deeper than Python's limit of recursion."""
    # GIVEN
    folder = write_files({"train.py": "t"})
    name = f"{'d/' * 500}x"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("x")

    # THEN
    assert set(contents(package_source("train.py", source_dir=folder))) == {name, "train.py"}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.symlink_to("/nowhere"), "which is a link to '/nowhere', which does not exist"),
        (lambda path: path.symlink_to(".."), "which is a link to '{above}', a folder that contains it"),
        (os.mkfifo, "which is a named pipe, which has no content to copy"),
    ],
)
def test_refuses_what_cannot_be_packaged(write_files: WriteFiles, make: Callable[[Path], None], sentence: str) -> None:
    """Links without an end or a target, and special files, are refused with what to do, unless ignored."""
    # GIVEN
    folder = write_files({"train.py": "t"})
    make(folder / "odd")

    # THEN
    with pytest.raises(InvalidInput) as refused:
        package_source("train.py", source_dir=folder)
    what = sentence.format(above=folder.parent)
    assert str(refused.value) == f"cannot package '{folder}/odd', {what}: remove it or name it in .gitignore"
    (folder / ".gitignore").write_text("odd\n")
    assert set(contents(package_source("train.py", source_dir=folder))) == {".gitignore", "train.py"}


def test_refuses_a_name_that_is_not_utf_8(write_files: WriteFiles) -> None:
    """A name that is not UTF-8 is refused, and the sentence spells its bytes."""
    # GIVEN
    folder = write_files({"train.py": "t"})
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.py"))
    odd.write_text("x")

    # THEN
    sentence = rf"^cannot package '{folder}/caf\\xe9.py': its name must be UTF-8, as keys in S3 are; rename it$"
    with pytest.raises(InvalidInput, match=sentence):
        package_source("train.py", source_dir=folder)
    with pytest.raises(InvalidInput, match=sentence):
        package_source(odd)


@pytest.mark.parametrize(
    ("entry_point", "sentence"),
    [
        ("other.py", r"'entry_point' must be a file in 'source_dir' \('.*'\), got 'other.py'"),
        ("jobs", r"'entry_point' must be a file in 'source_dir' \('.*'\), got 'jobs'"),
        ("model.h5", r"'entry_point' must be a Python file with the suffix .py, got 'model.h5'"),
        (
            "code/jobs/train.py",
            r"'entry_point' must be a file in .* got '.*': give its path in that folder, 'jobs/train.py'",
        ),
        ("draft.py", r"'entry_point' must be in the package, but a .gitignore ignores it or .*, got 'draft.py'"),
        ("../outside.py", r"'entry_point' must be in the package, but .* it is outside '.*', got '../outside.py'"),
    ],
)
def test_fails_when_the_script_is_not_in_the_package(
    write_files: WriteFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry_point: str, sentence: str
) -> None:
    """A script that the nodes would not find is named, with the reason."""
    # GIVEN
    folder = write_files({".gitignore": "draft.py\n", "draft.py": "", "jobs/train.py": "", "model.h5": ""})
    (tmp_path / "outside.py").write_text("")
    monkeypatch.chdir(tmp_path)

    # THEN
    with pytest.raises(InvalidInput, match=f"^{sentence}$"):
        package_source(entry_point, source_dir=folder)


def test_fails_when_the_script_cannot_be_read(tmp_path: Path) -> None:
    """A script or a folder that is missing or of the wrong kind is named."""
    with pytest.raises(InvalidInput, match=r"^cannot read '.*/missing.py': No such file or directory$"):
        package_source(tmp_path / "missing.py")
    with pytest.raises(InvalidInput, match=rf"^'entry_point' must be a script, got the folder '{tmp_path}': name the "):
        package_source(tmp_path)
    with pytest.raises(InvalidInput, match=r"^'source_dir' must be a folder, got '.*/missing', which does not exist$"):
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
        match=r"^'source_dir' must have at most 256 MiB, got 256 MiB; its largest file is 'digits.npz': keep data in",
    ):
        package_source("train.py", source_dir=folder)


@pytest.mark.parametrize("name", ["my train.py", "größe (2)..v2.py", "\u3042/train's.py", "-m.py"])
def test_names_that_a_disk_takes_are_packaged(write_files: WriteFiles, tmp_path: Path, name: str) -> None:
    """Any name that the disk allows is packaged, unpacked and accepted in a request."""
    # GIVEN
    folder = write_files({name: "print(1)"})
    (tmp_path / "node").mkdir()

    # WHEN
    package = package_source(name, source_dir=folder)
    digest = contract.unpack_archive(io.BytesIO(package.archive), into=tmp_path / "node", most_bytes=1000)

    # THEN
    assert digest == package.digest
    assert (tmp_path / "node" / package.entry_point).read_text() == "print(1)"
    request = {"source": "s3://bucket/key", "entry_point": package.entry_point, "gpus": 1}
    fleets = [contract.FleetSize(max_gpus=1, gpu_step=1)]
    assert contract.check_request(request, fleets=fleets, max_runtime_seconds=1) == []


def test_refuses_what_nodes_would_not_unpack(write_files: WriteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is too long, and too many files, are refused before a node is paid for."""
    # GIVEN
    folder = write_files({"train.py": "t", "a/b/c.py": "c"})
    monkeypatch.setattr(contract, "ARCHIVE_ENTRIES_LIMIT", 4)
    assert set(contents(package_source("train.py", source_dir=folder))) == {"train.py", "a/b/c.py"}

    # THEN
    (folder / "more.py").touch()
    with pytest.raises(
        InvalidInput, match=r"^'source_dir' must have at most 4 files and folders, got 5: keep data in S3"
    ):
        package_source("train.py", source_dir=folder)
    (folder / "more.py").unlink()
    deep = folder.joinpath(*["d" * 200] * 5, "deep" * 6)
    deep.parent.mkdir(parents=True)
    deep.touch()
    with pytest.raises(
        InvalidInput, match=r"^cannot package 'd+/.*': its path must have at most 1,024 bytes; shorten it,"
    ):
        package_source("train.py", source_dir=folder)


@pytest.mark.parametrize(
    ("text", "gpus", "model_required", "doubts"),
    [
        ("import horovod.torch, os; os.environ['SM_MODEL_DIR']", 2, True, []),
        ("from horovod_node import training; training.save(1)", 2, True, []),
        ("print('trained')", 2, True, ["does not name Horovod", "does not name SM_MODEL_DIR"]),
        ("print('trained')", 1, True, ["does not name SM_MODEL_DIR"]),
        ("print('trained')", 1, False, []),
    ],
)
def test_script_that_may_train_in_vain_is_doubted(
    tmp_path: Path, text: str, gpus: int, model_required: bool, doubts: list[str]
) -> None:
    """A script that seems not to average or to save gives a warning, and no error: a package may do it."""
    # GIVEN
    script = tmp_path / "train.py"
    script.write_text(text)
    # WHEN
    said = package_source(script).doubts(gpus=gpus, model_required=model_required)
    # THEN
    assert [words for words, doubt in zip(doubts, said, strict=True) if words in doubt] == doubts
