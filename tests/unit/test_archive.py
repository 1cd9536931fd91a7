"""Unpacking archives of strangers: nothing lands outside the folder or exhausts memory or disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import resource
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horovod_node.contract import ArchiveRefused, unpack_archive
from horovod_node.contract import archive as archive_module

Member = tuple[str, bytes] | tarfile.TarInfo


def tar(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    """Make a tar archive of files, or of members that no honest archive has."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=format) as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            content = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def special(name: str, kind: bytes, target: str = "", *, mode: int = 0o644) -> tarfile.TarInfo:
    """Make a link, a folder or a device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Path]:
    """Unpack a tar archive into a new folder."""

    def call(archive: bytes, *, most_bytes: int = 10**7) -> Path:
        into = tmp_path / "deep" / f"into-{len(list(tmp_path.glob('deep/*')))}"
        into.mkdir(parents=True)
        unpack_archive(io.BytesIO(gzip.compress(archive)), into=into, most_bytes=most_bytes)
        return into

    return call


def files(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NAMES = ("a", "nets/cnn.py", "x" * 150, "/".join(["folder"] * 40) + "/file", "é/ü", "0" * 90 + "/" + "1" * 120)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_takes_what_tar_programs_write(unpack: Callable[..., Path], format: int) -> None:
    """Long names, folders, empty files and odd sizes arrive, in each format that is in use."""
    # GIVEN
    names = [name for name in NAMES if format != tarfile.USTAR_FORMAT or len(name) < 100]
    members = {name: name.encode() * place * 40 for place, name in enumerate(names)}
    # WHEN
    folders = special("empty", tarfile.DIRTYPE), special(".", tarfile.DIRTYPE)
    folder = unpack(tar(*folders, *members.items(), format=format))
    # THEN
    assert files(folder) == members
    assert (folder / "empty").is_dir()


def test_takes_what_the_tar_program_writes(tmp_path: Path) -> None:
    """An archive of `tar czf` with a leading `./`, as people make it, is unpacked."""
    # GIVEN
    source = tmp_path / "source"
    (source / "nets").mkdir(parents=True)
    for name in ("train.py", "nets/cnn.py"):
        (source / name).write_text(name)
    subprocess.run(["tar", "czf", tmp_path / "source.tar.gz", "-C", source, "."], check=True)
    (tmp_path / "into").mkdir()
    # WHEN
    with (tmp_path / "source.tar.gz").open("rb") as archive:
        unpack_archive(archive, into=tmp_path / "into", most_bytes=10**6)
    # THEN
    assert files(tmp_path / "into") == files(source)


def test_gives_the_digest_of_what_it_unpacked(tmp_path: Path) -> None:
    """The digest is that of the archive before compression, as the client names packages."""
    archive = tar(("train.py", b"pass"))
    digest = unpack_archive(io.BytesIO(gzip.compress(archive)), into=tmp_path, most_bytes=10**6)
    assert digest == hashlib.sha256(archive).hexdigest()


def test_permissions_are_those_of_new_files(unpack: Callable[..., Path]) -> None:
    """Files get the permissions of new files, without a set-user-id bit, and executables stay executable."""
    # GIVEN
    program, text = special("program", tarfile.REGTYPE, mode=0o6777), special("text", tarfile.REGTYPE, mode=0o7666)
    mask = os.umask(0o022)
    # WHEN
    try:
        folder = unpack(tar(program, text, special("folder", tarfile.DIRTYPE, mode=0o7777)))
    finally:
        os.umask(mask)
    # THEN
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"program": 0o755, "text": 0o644, "folder": 0o755}


def escape_by_long_links(victim: str) -> bytes:
    """
    Build the archive of CVE-2025-4517, which leaves its folder through `extractall(filter="data")` of Python 3.11.7.

    Links make a short name stand for a path that is longer than PATH_MAX; `os.path.realpath` gives up on it half way,
    and takes what climbs out behind it for a name inside.
    """
    folder, steps = "d" * 247, "abcdefghijklmnop"
    members: list[Member] = []
    path = ""
    for step in steps:
        members.append(special(f"{path}{folder}", tarfile.DIRTYPE, mode=0o755))
        members.append(special(f"{path}{step}", tarfile.SYMTYPE, folder))
        path += f"{folder}/"
    last = "/".join(steps) + "/" + "l" * 254
    members.append(special(last, tarfile.SYMTYPE, "../" * len(steps)))
    members.append(special("escape", tarfile.SYMTYPE, f"{last}/../{victim}"))
    members.append(special("flaglink", tarfile.LNKTYPE, "escape"))
    members.append(("flaglink", b"owned"))
    return tar(*members)


def test_cve_2025_4517_leads_nowhere(unpack: Callable[..., Path], tmp_path: Path) -> None:
    """The archive that overwrites files of its reader through `extractall` is refused at its first link."""
    # GIVEN a file beside the folder
    victim = tmp_path / "deep" / "authorized_keys"
    victim.parent.mkdir()
    victim.write_text("mine")
    # WHEN
    with pytest.raises(ArchiveRefused, match="may hold files and folders only: 'a' is a link or a device"):
        unpack(escape_by_long_links("authorized_keys"))
    # THEN
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("../out", b"")], "would write outside of its folder: it holds '../out'"),
        ([("a/../../out", b"")], "would write outside"),
        ([("/tmp/out", b"")], "would write outside"),
        ([special("..", tarfile.DIRTYPE)], "would write outside"),
        ([special("l", tarfile.SYMTYPE, "..")], "'l' is a link or a device"),
        ([special("l", tarfile.LNKTYPE, "../out")], "'l' is a link or a device"),
        ([special("p", tarfile.FIFOTYPE)], "'p' is a link or a device"),
        ([special("n", tarfile.CHRTYPE)], "'n' is a link or a device"),
        ([special("n", tarfile.BLKTYPE)], "'n' is a link or a device"),
        ([special("n", tarfile.GNUTYPE_SPARSE)], "'n' is a link or a device"),
        ([special("n", b"V")], "'n' is a link or a device"),
        ([("a", b""), ("a/b", b"")], "'a/b' cannot be written"),
        ([("a/b", b""), ("a", b"")], "'a' cannot be written"),
        ([("", b"")], "a file without a name"),
        ([("x" * 300, b"")], "cannot be written: File name too long"),
        ([("x/" * 600, b"")], "a name of more than 1,024 bytes"),
        ([("a", b"x" * 600), ("b", b"x" * 500)], "more than 1,000 bytes together"),
    ],
)
def test_refuses(unpack: Callable[..., Path], tmp_path: Path, members: list[Member], words: str) -> None:
    """An entry that no script's folder and no model needs is refused, and the error names it."""
    # WHEN
    with pytest.raises(ArchiveRefused, match=words):
        unpack(tar(*members), most_bytes=1000)
    # THEN nothing but the folder is there
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["into-0"]
    assert not Path("/tmp/out").exists()


def test_counts_folders_that_only_names_tell_of(unpack: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders count towards the limit even if only the names of deep files mention them."""
    monkeypatch.setattr(archive_module, "ARCHIVE_ENTRIES_LIMIT", 1000)
    with pytest.raises(ArchiveRefused, match="holds more than 1,000 files and folders"):
        unpack(tar(*((f"{number}" + "/x" * 400, b"") for number in range(10))))


def pax_bomb(size: int) -> Iterable[bytes]:
    """Write a pax header of *size* bytes, compressed as it comes, and a file."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as stream:
        header = special("PaxHeader", tarfile.XHDTYPE)
        header.size = size
        stream.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(size // 2**20):
            stream.write(b"1" * 2**20)
    yield packed.getvalue()


def test_a_header_takes_no_memory(tmp_path: Path) -> None:
    """A header of 192 MiB, compressed to less than one, is refused before it is read."""
    # GIVEN
    (bomb,) = pax_bomb(192 * 2**20)
    (tmp_path / "bomb.tar.gz").write_bytes(bomb)
    (tmp_path / "into").mkdir()
    program = """
import resource, sys
from pathlib import Path
from horovod_node.contract import ArchiveRefused, unpack_archive
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    unpack_archive(open(sys.argv[1], "rb"), into=Path(sys.argv[2]), most_bytes=2**40)
except ArchiveRefused as refusal:
    print(refusal, "|", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    # WHEN
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "bomb.tar.gz", tmp_path / "into"],
        capture_output=True,
        text=True,
        check=True,
    )
    # THEN
    words, _, mebibytes = done.stdout.partition(" | ")
    assert len(bomb) < 2 * 2**20
    assert words == "its headers have more than 16,777,216 bytes"
    assert int(mebibytes) < 50


def test_many_headers_before_one_file_end(unpack: Callable[..., Path]) -> None:
    """Ten thousand long names for one file neither exhaust the stack nor count as ten thousand files."""
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 4
    header = long_name.tobuf(tarfile.GNU_FORMAT) + b"name".ljust(512, b"\0")
    folder = unpack(header * 10_000 + tar(("other", b"text")))
    assert files(folder) == {"name": b"text"}


WHOLE = tar(
    ("train.py", b"pass\n" * 200), ("x" * 150, b"1"), special("folder", tarfile.DIRTYPE), ("folder/a", b"2" * 700)
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), packed=st.booleans(), changes=st.integers(1, 8), mended=st.booleans())
def test_no_damage_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, seed: int, packed: bool, changes: int, mended: bool
) -> None:
    """A damaged archive, even one with valid check sums, is unpacked or refused and raises nothing else."""
    # GIVEN
    dice = random.Random(seed)  # noqa: S311
    body = bytearray(gzip.compress(WHOLE) if packed else WHOLE)
    for _ in range(changes):
        body[dice.randrange(len(body))] = dice.randrange(256)
    if mended and not packed:
        for start in range(0, len(body), 512):
            if body[start + 257 : start + 262] == b"ustar":
                total = 256 + sum(body[start : start + 148]) + sum(body[start + 156 : start + 512])
                body[start + 148 : start + 156] = b"%06o\0 " % total
    if dice.random() < 0.2:
        del body[dice.randrange(len(body)) :]
    into = tmp_path_factory.mktemp("into")
    # WHEN / THEN
    try:
        unpack_archive(io.BytesIO(bytes(body) if packed else gzip.compress(bytes(body))), into=into, most_bytes=10**6)
    except ArchiveRefused:
        return
    assert sum(len(content) for content in files(into).values()) <= 10**6


def test_a_full_disk_is_not_the_archives_fault(tmp_path: Path) -> None:
    """A full disk is reported as such and not as a bad archive, because another try may succeed."""
    # GIVEN a limit on what this process may write to one file
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    # WHEN / THEN
    try:
        with pytest.raises(OSError, match="File too large"):
            unpack_archive(io.BytesIO(gzip.compress(tar(("a", b"x" * 5000)))), into=tmp_path, most_bytes=10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
