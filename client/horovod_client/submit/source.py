"""Packaging of the user's code into an archive, whose digest is the same for the same files."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import posixpath
import tarfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path, PurePosixPath

from horovod_client.errors import InvalidInput
from horovod_client.submit.files import check_file, check_name, shown
from horovod_client.submit.folder import IGNORE_FILE, PACKAGE, code_files
from horovod_node import contract

_WAYS_TO_LEAVE_A_MODEL = (b"SM_MODEL_DIR", b"/opt/ml", b"model_dir", b"model-dir", b"horovod_node")
SOURCE_LIMIT_BYTES = 256 * 1024**2
"""Our own limit: every node downloads the code before it trains. Code is small; larger files are usually data."""


@dataclass(frozen=True, kw_only=True)
class SourcePackage:
    """
    Packaged code.

    Args:
        archive: The files as .tar.gz.
        digest:
            SHA-256 of the archive before compression, in hexadecimal digits. It is not the digest of *archive*, because
            another release of zlib compresses the same files to other bytes.
        entry_point: Path of the training script inside the archive.
        text: All Python code in the archive, for `doubts`.
    """

    archive: bytes = field(repr=False)
    digest: str
    entry_point: str
    text: bytes = field(default=b"", repr=False, compare=False)

    def doubts(self, *, gpus: int, model_required: bool) -> list[str]:
        """
        List likely mistakes in the script, in a sentence each, before nodes are started.

        They are not errors: the code is only searched for words, and a package that the script imports may do what
        the script does not name.

        Args:
            gpus: GPUs of the ring.
            model_required: Whether the run fails without a model.
        """
        doubts = []
        if gpus > 1 and b"horovod" not in self.text:
            doubts.append(
                f"'{self.entry_point}' does not name Horovod: unless a package uses it, each of the {gpus} ranks "
                "trains alone, and the model is that of rank 0"
            )
        if model_required and not any(words in self.text for words in _WAYS_TO_LEAVE_A_MODEL):
            doubts.append(
                f"'{self.entry_point}' does not name SM_MODEL_DIR: unless a package saves a model there, the run "
                "fails with ModelMissing after the training; use --no-model (model_required=False) if you want no "
                "model"
            )
        return doubts


def package_source(entry_point: str | PathLike[str], *, source_dir: str | PathLike[str] | None = None) -> SourcePackage:
    """
    Package a script, or a folder with it.

    Args:
        entry_point: The training script; with *source_dir*, its path inside that folder.
        source_dir:
            Folder to package, without files that its `.gitignore` ignores. If it has a `requirements.txt`, wheels in
            its folder `wheels` are packaged even if they are ignored, because nodes install them. Default: only the
            script is packaged.

    Raises:
        InvalidInput: If the script or a file of the folder cannot be read or packaged, the script is not Python, or the
            folder is larger than `SOURCE_LIMIT_BYTES`.
    """
    try:
        if source_dir is None:
            script = Path(entry_point)
            check_name(script, purpose=PACKAGE)
            if script.is_dir():
                raise InvalidInput(
                    f"'entry_point' must be a script, got the folder '{script}': name the script in it, and the folder "
                    "as 'source_dir' if the script needs other files of it"
                )
            check_file(script, purpose=PACKAGE)
            files = {script.name: script}
            name = script.name
        else:
            folder = Path(source_dir)
            if not folder.is_dir():
                what = "is a file" if folder.exists() else "does not exist"
                raise InvalidInput(f"'source_dir' must be a folder, got '{shown(folder)}', which {what}")
            resolved = folder.resolve()
            files = {path.relative_to(resolved).as_posix(): path for path in code_files(folder)}
            if contract.REQUIREMENTS_FILE in files:
                # Many .gitignore files ignore this folder as build output, but nodes install from it.
                wheels = (resolved / contract.WHEELS_FOLDER).glob("*.whl")
                files |= {path.relative_to(resolved).as_posix(): path for path in wheels if path.is_file()}
            name = posixpath.normpath(Path(entry_point).as_posix())
            _check_entry_point(name, folder=folder, packaged=files)
        if not name.endswith(".py"):
            raise InvalidInput(f"'entry_point' must be a Python file with the suffix .py, got '{name}'")
        _check_names(files)
        _check_size(files)
        _check_syntax(name, files[name].read_bytes())
        archive = _tar((name, path) for name, path in sorted(files.items()))
    except OSError as error:
        path = shown(Path(error.filename or fspath(entry_point)))
        raise InvalidInput(f"cannot read '{path}': {error.strerror}") from error
    return SourcePackage(
        archive=gzip.compress(archive, mtime=0),
        digest=hashlib.sha256(archive).hexdigest(),
        entry_point=name,
        text=b"\n".join(path.read_bytes() for inside, path in files.items() if inside.endswith(".py")),
    )


def _check_entry_point(name: str, *, folder: Path, packaged: Iterable[str]) -> None:
    if name in packaged:
        return
    if (folder / name).is_file():
        raise InvalidInput(
            f"'entry_point' must be in the package, but a {IGNORE_FILE} ignores it or it is outside '{folder}', got "
            f"'{name}'"
        )
    script = Path(name)
    inside = script.is_file() and script.resolve().is_relative_to(folder.resolve())
    hint = f": give its path in that folder, '{script.resolve().relative_to(folder.resolve())}'" if inside else ""
    raise InvalidInput(f"'entry_point' must be a file in 'source_dir' ('{folder}'), got '{name}'{hint}")


def _check_syntax(name: str, code: bytes) -> None:
    """Compile the script without running it, to find syntax errors before nodes are started."""
    try:
        with warnings.catch_warnings(action="ignore"):  # the script shows its warnings on the nodes
            compile(code, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise InvalidInput(f"'entry_point' must be Python, but '{name}' has an error{line}: {reason}") from error


def _check_names(files: Iterable[str]) -> None:
    """Refuse names and numbers of files that nodes would refuse to unpack."""
    entries = set()
    for name in files:
        if len(os.fsencode(name)) > contract.ARCHIVE_NAME_LIMIT:
            raise InvalidInput(
                f"cannot package '{name}': its path must have at most {contract.ARCHIVE_NAME_LIMIT:,} bytes; shorten "
                f"it, or name it in {IGNORE_FILE}"
            )
        entries |= {name, *map(str, PurePosixPath(name).parents)}
    if len(entries) - 1 > contract.ARCHIVE_ENTRIES_LIMIT:  # one of the parents is the folder itself
        raise InvalidInput(
            f"'source_dir' must have at most {contract.ARCHIVE_ENTRIES_LIMIT:,} files and folders, got "
            f"{len(entries) - 1:,}: keep data in S3 and name it in {IGNORE_FILE}"
        )


def _check_size(files: dict[str, Path]) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = sum(sizes.values())
    if total > SOURCE_LIMIT_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise InvalidInput(
            f"'source_dir' must have at most {SOURCE_LIMIT_BYTES // 1024**2} MiB, got {total // 1024**2} MiB; its "
            f"largest file is '{largest}': keep data in S3 and name it in {IGNORE_FILE}"
        )


def _tar(files: Iterable[tuple[str, Path]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in files:
            content = path.read_bytes()
            member = tarfile.TarInfo(name)  # without an owner and with time 0, so that the archive is reproducible
            member.size = len(content)
            member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
