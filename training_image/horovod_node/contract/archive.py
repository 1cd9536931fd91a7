"""
Unpacks the .tar.gz archives of scripts and models, without trusting their content.

An archive is read as a stream, header by header. Fixed limits bound the memory and the disk that it takes.
`tarfile.extractall(filter="data")` is no substitute: links in very long paths leave its folder (CVE-2025-4517, fixed
in Python 3.11.13, 3.12.11 and 3.13.4), and Debian 12's Python 3.11.2 has no filters at all (PEP 706).

Format: POSIX.1-2001 pax, "ustar Interchange Format" and "pax Header Block"; GNU's long names. `tarfile` writes these.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import sys
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Final

ARCHIVE_ENTRIES_LIMIT: Final = 100_000
"""Most files and folders in an archive: each takes an inode and some time, however small it is."""
ARCHIVE_NAME_LIMIT: Final = 1024
"""Most bytes of a path in an archive: as many as an S3 key has, and few enough for every file system."""

REQUIREMENTS_FILE: Final = "requirements.txt"
"""File at the top of a script's archive: the packages that each node installs before its ranks start."""
WHEELS_FOLDER: Final = "wheels"
"""Folder beside `REQUIREMENTS_FILE`: wheels that are installed without a package index."""
FILE_NAME_LIMIT: Final = 255
"""Most bytes of a file's or folder's name on Linux (limits.h, NAME_MAX)."""

_HEADERS_LIMIT_BYTES: Final = 16 * 1024**2
"""Limit of all pax headers and long names together. `tarfile` writes 1 or 2 kB for the few files that need one."""
_PADDING_LIMIT_BYTES: Final = 16 * 1024**2
"""Limit of the padding behind the end of a tar archive; records have 10 kB by default."""
_BLOCK: Final = tarfile.BLOCKSIZE
_COPY_BYTES: Final = 1024**2
_OF_THE_ARCHIVE: Final = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)
"""Errors of a file system that the archive's names cause. A full disk is not among them."""


class ArchiveRefused(ValueError):  # noqa: N818 - it says what happened, as the errors of a run do
    """An archive is damaged, or holds what must not be unpacked. A retry cannot succeed."""


def unpack_archive(archive: IO[bytes], *, into: Path, most_bytes: int) -> str:
    """
    Write the regular files and the folders of a .tar.gz, and refuse one that holds anything else.

    Files get the permissions of new files, and stay executable. Owner, times and set-user-id bits are ignored.

    Args:
        archive: A stream, which is read forwards only.
        into: An empty folder that nobody else writes to. After an error it holds a part of the archive.
        most_bytes: Limit of the size of all files together.

    Returns:
        SHA-256 of the archive before compression, in hexadecimal digits.

    Raises:
        ArchiveRefused: If the archive is damaged, would write outside of *into*, holds a link or a device, or is larger
            than *most_bytes*, `ARCHIVE_ENTRIES_LIMIT` or `ARCHIVE_NAME_LIMIT` allow.
        OSError: If *into* cannot be written.
    """
    return _Unpacking(archive, into=into, most_bytes=most_bytes).run()


def check_archive(archive: IO[bytes]) -> str:
    """
    Read a .tar.gz as `unpack_archive` does, and write nothing.

    Args:
        archive: A stream, which is read forwards only.

    Returns:
        SHA-256 of the archive before compression, in hexadecimal digits.

    Raises:
        ArchiveRefused: If `unpack_archive` would refuse it, whatever its size.
    """
    return _Checking(archive, into=Path("archive"), most_bytes=sys.maxsize).run()


class _Unpacking:
    def __init__(self, archive: IO[bytes], *, into: Path, most_bytes: int) -> None:
        self._stream = gzip.GzipFile(fileobj=archive, mode="rb")
        self._into = into
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries = 0
        self._header_bytes = 0
        self._folders = {into}
        self._digest = hashlib.sha256()

    def run(self) -> str:
        name: str | None = None
        size: int | None = None
        while (header := self._header()) is not None:
            if header.size < 0:
                raise ArchiveRefused("a header has a negative size")
            if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                name, size = _read_pax(self._extension(header), name=name, size=size)
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                name = _text(self._extension(header).rstrip(b"\0"))
            elif header.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                self._extension(header)
            else:
                self._unpack(header, name=header.name if name is None else name, size=size)
                name = size = None
        # The rest is padding. At its end, gzip verifies the checksum.
        if len(self._read(_PADDING_LIMIT_BYTES, whole=False)) == _PADDING_LIMIT_BYTES:
            raise ArchiveRefused("it has data behind its end")
        return self._digest.hexdigest()

    def _header(self) -> tarfile.TarInfo | None:
        block = self._read(_BLOCK)
        if not any(block):  # the end of an archive is two blocks of zeros
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise ArchiveRefused(f"a header cannot be read: {error}") from error

    def _extension(self, header: tarfile.TarInfo) -> bytes:
        """Read the content of an extension header, which describes the next file."""
        self._header_bytes += header.size
        if self._header_bytes > _HEADERS_LIMIT_BYTES:
            raise ArchiveRefused(f"its headers have more than {_HEADERS_LIMIT_BYTES:,} bytes")
        return self._read(header.size + -header.size % _BLOCK)[: header.size]

    def _unpack(self, header: tarfile.TarInfo, *, name: str, size: int | None) -> None:
        path = self._path(name)
        if header.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) or header.type == tarfile.GNUTYPE_SPARSE:
            raise ArchiveRefused(f"it may hold files and folders only: '{name}' is a link or a device")
        try:
            if header.type == tarfile.DIRTYPE:
                self._make_folder(path)
            else:
                self._write(path, size=header.size if size is None else size, mode=header.mode)
        except OSError as error:
            if error.errno not in _OF_THE_ARCHIVE:
                raise
            raise ArchiveRefused(f"'{name}' cannot be written: {error.strerror}") from error

    def _write(self, path: Path, *, size: int, mode: int) -> None:
        if path == self._into:
            raise ArchiveRefused("it holds a file without a name")
        self._bytes += size
        if self._bytes > self._most_bytes:
            raise ArchiveRefused(f"its files have more than {self._most_bytes:,} bytes together")
        self._make_folder(path.parent)
        self._count()
        with self._open(path, executable=bool(mode & 0o100)) as file:
            for start in range(0, size, _COPY_BYTES):
                file.write(self._read(min(size - start, _COPY_BYTES)))
        self._read(-size % _BLOCK)

    def _open(self, path: Path, *, executable: bool) -> IO[bytes]:
        permissions = 0o777 if executable else 0o666  # less the process's umask, as for every new file
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        return os.fdopen(os.open(path, flags, permissions), "wb")

    def _mkdir(self, path: Path) -> None:
        # Not exist_ok: a path that exists, and that was not made here as a folder, is a file of this archive.
        path.mkdir()

    def _path(self, name: str) -> Path:
        path, native = PurePosixPath(name), Path(name)
        # On Windows, other characters separate folders and name drives.
        if path.is_absolute() or ".." in path.parts or native.anchor or ".." in native.parts:
            raise ArchiveRefused(f"it would write outside of its folder: it holds '{name}'")
        if "\0" in name:
            raise ArchiveRefused(f"it holds a name with a NUL character: {name!r}")
        if len(os.fsencode(name)) > ARCHIVE_NAME_LIMIT:
            raise ArchiveRefused(f"it holds a name of more than {ARCHIVE_NAME_LIMIT:,} bytes: '{name[:80]}…'")
        return self._into / native

    def _make_folder(self, path: Path) -> None:
        missing = []
        while path not in self._folders:
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            self._count()
            self._mkdir(folder)
            self._folders.add(folder)

    def _count(self) -> None:
        self._entries += 1
        if self._entries > ARCHIVE_ENTRIES_LIMIT:
            raise ArchiveRefused(f"it holds more than {ARCHIVE_ENTRIES_LIMIT:,} files and folders")

    def _read(self, count: int, *, whole: bool = True) -> bytes:
        """Read *count* bytes; refuse the archive if it has fewer, unless *whole* is false."""
        data = b""
        try:
            while len(data) < count and (part := self._stream.read(count - len(data))):
                data += part
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ArchiveRefused(f"it is not a whole .tar.gz: {error}") from error
        if whole and len(data) < count:
            raise ArchiveRefused("it ends in the middle")
        self._digest.update(data)
        return data


class _Checking(_Unpacking):
    """Raises the errors that a file system would raise, without writing to one."""

    def __init__(self, archive: IO[bytes], *, into: Path, most_bytes: int) -> None:
        super().__init__(archive, into=into, most_bytes=most_bytes)
        self._files: set[Path] = set()

    def _open(self, path: Path, *, executable: bool) -> IO[bytes]:  # noqa: ARG002 - nothing is written
        if path in self._folders:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._check_name(path)
        self._files.add(path)
        return Path(os.devnull).open("wb")

    def _mkdir(self, path: Path) -> None:
        self._check_name(path)
        if path in self._files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _check_name(self, path: Path) -> None:
        if len(os.fsencode(path.name)) > FILE_NAME_LIMIT:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _read_pax(records: bytes, *, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Read the next file's name and size from a pax header, which has lines of `LENGTH KEY=VALUE`."""
    while records and records[0]:
        digits, _, _ = records[:20].partition(b" ")
        if not digits.isdigit() or not len(digits) + 1 < int(digits) <= len(records):
            raise ArchiveRefused("a pax header cannot be read: a record has a wrong length")
        record, records = records[len(digits) + 1 : int(digits)], records[int(digits) :]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals:
            raise ArchiveRefused("a pax header cannot be read: a record has no value")
        if key.startswith(b"GNU.sparse"):
            raise ArchiveRefused("it may hold files and folders only: one of its files is sparse")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise ArchiveRefused("a pax header cannot be read: a size is not a number")
            size = int(value)
    return name, size


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
