"""Data of this machine: which files are uploaded, once and whole, and what is reported meanwhile."""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest
from botocore.exceptions import EndpointConnectionError

from horovod_client import InvalidInput
from horovod_client.cli.upload_progress import upload_shown
from horovod_client.submit.local_data import DataProgress, upload_data
from horovod_client.text.terminal import printable
from horovod_node.transfer.data_channels import list_files
from horovod_node.transfer.s3 import S3Address
from support.fake_account import Account

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

bucket_numbers = itertools.count()

Upload = Callable[[str | Path], dict[str, bytes]]


@pytest.fixture
def bucket(account: Account) -> str:
    """Make a bucket for one test."""
    name = f"local-data-{next(bucket_numbers)}"
    account.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return name


@pytest.fixture
def upload(account: Account, bucket: str) -> Upload:
    """Upload a path, and read back, by path, what a node would find at the address."""

    def run(path: str | Path) -> dict[str, bytes]:
        address = S3Address.parse(upload_data(path, channel="train", bucket=bucket, s3=account.s3))
        return {str(file.path): account.read(bucket, file.key) for file in list_files(account.s3, address)}

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make a folder of data."""
    folder = tmp_path / "digits"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "a.txt").write_text("1")
    (folder / "labels").write_text("one")
    return folder


class Sent:
    """Records which keys a client is asked to send."""

    def __init__(self, s3: S3Client) -> None:
        self.keys: list[str] = []
        self._s3 = s3

    def __enter__(self) -> list[str]:
        self._s3.meta.events.register("before-call.s3.PutObject", self._note)
        self._s3.meta.events.register("before-call.s3.CreateMultipartUpload", self._note)
        return self.keys

    def __exit__(self, *_end: object) -> None:
        self._s3.meta.events.unregister("before-call.s3.PutObject", self._note)
        self._s3.meta.events.unregister("before-call.s3.CreateMultipartUpload", self._note)

    def _note(self, params: dict[str, str], **_others: object) -> None:
        self.keys.append(params["url_path"].split("/", 4)[-1])


def test_uploads_a_folder_and_a_file(upload: Upload, data: Path) -> None:
    """A folder is the channel, and one file lies in it; names of any language and empty files are data, too."""
    # GIVEN
    (data / "größe und + % \u3042.txt").write_text("")
    (data / "nothing").mkdir()
    (data / ".hidden").write_text("h")

    # THEN
    assert upload(data) == {
        "one/a.txt": b"1",
        "labels": b"one",
        "größe und + % \u3042.txt": b"",
        ".hidden": b"h",
    }
    assert upload(data / "labels") == {"labels": b"one"}


def test_finds_the_users_own_folder(upload: Upload, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `~` that no shell has expanded, as in `--data train=~/digits`, is expanded."""
    monkeypatch.setenv("HOME", str(data.parent))
    assert upload("~/digits/one") == {"a.txt": b"1"}


def test_follows_links(upload: Upload, data: Path, tmp_path: Path) -> None:
    """A link's target, a file or a folder, is data under the name of the link."""
    # GIVEN
    (tmp_path / "disk" / "two").mkdir(parents=True)
    (tmp_path / "disk" / "two" / "b.txt").write_text("2")
    (data / "two").symlink_to(tmp_path / "disk" / "two")
    (data / "too").symlink_to(Path("..") / "disk" / "two")
    (data / "b").symlink_to(data / "two" / "b.txt")
    (tmp_path / "link").symlink_to(data)

    # THEN
    expected = {
        "one/a.txt": b"1",
        "labels": b"one",
        "two/b.txt": b"2",
        "too/b.txt": b"2",
        "b": b"2",
    }
    assert upload(data) == expected
    assert upload(tmp_path / "link") == expected


def _named_pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))  # its name may have 108 bytes


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.symlink_to("/nowhere/at all"), "a link to '/nowhere/at all', which does not exist"),
        (lambda path: path.symlink_to(path.name), "a link to 'odd', which does not exist"),
        (lambda path: path.symlink_to("."), "a link to '{data}/one', a folder that contains it"),
        (lambda path: path.symlink_to("../.."), "a link to '{above}', a folder that contains it"),
        (_named_pipe, "a named pipe, which has no content to copy"),
        (_socket, "a socket, which has no content to copy"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, which has no content to copy"),
    ],
)
def test_refuses_what_cannot_be_copied(
    upload: Upload, data: Path, account: Account, bucket: str, make: Callable[[Path], None], sentence: str
) -> None:
    """One entry that cannot be copied, which the error names, refuses all: part of the data would train worse."""
    # GIVEN
    odd = data / "one" / "odd"
    make(odd)

    # WHEN
    with pytest.raises(InvalidInput) as refused:
        upload(data)

    # THEN
    what = sentence.format(data=data.resolve(), above=data.parent.resolve())
    assert str(refused.value) == f"cannot upload '{odd}', which is {what}: remove it, or move it out of the data"
    assert account.keys(bucket) == set()


def test_refuses_links_that_lead_to_each_other(upload: Upload, data: Path, tmp_path: Path) -> None:
    """Two folders with links to each other are refused, for they have no end."""
    # GIVEN
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "back").symlink_to(data)
    (data / "there").symlink_to(tmp_path / "other")

    # THEN
    with pytest.raises(InvalidInput, match=rf"^cannot upload '{data}/there/back', which is a link to '{data}'"):
        upload(data)


@pytest.mark.parametrize("make", [lambda path: path.write_text("x"), lambda path: path.mkdir()])
def test_refuses_a_name_that_is_not_utf_8(upload: Upload, data: Path, make: Callable[[Path], object]) -> None:
    """A name in another encoding cannot be a key of S3; the sentence spells its bytes."""
    # GIVEN
    odd = Path(os.fsdecode(os.fsencode(data) + b"/caf\xe9"))
    make(odd)
    (odd / "x").write_text("x") if odd.is_dir() else None

    # THEN
    sentence = rf"^cannot upload '{data}/caf\\xe9': its name must be UTF-8, as keys in S3 are; rename it$"
    for path in (data, odd):
        with pytest.raises(InvalidInput, match=sentence):
            upload(path)


def test_refuses_a_path_that_is_too_long_for_a_key(upload: Upload, data: Path) -> None:
    """A key of S3 has 1,024 bytes, the digest of the data among them; a path on a disk may have more."""
    # GIVEN
    deep = data.joinpath(*["d" * 200] * 5)
    deep.mkdir(parents=True)
    (deep / "x").write_text("")

    # THEN
    with pytest.raises(
        InvalidInput, match=r"/x': its path in the data must have at most 948 bytes, got 1006; shorten it$"
    ):
        upload(data)


def test_refuses_what_holds_nothing(upload: Upload, data: Path) -> None:
    """A folder without a file, and a path that is not there, are named with their channel."""
    # GIVEN
    (data / "nothing" / "at all").mkdir(parents=True)

    # THEN
    with pytest.raises(InvalidInput, match=rf"^'data.train' is empty: the folder '{data}/nothing' has no file$"):
        upload(data / "nothing")
    with pytest.raises(InvalidInput, match=r"^'data.train' must be a file or folder on this machine, or an address "):
        upload(data / "missing")
    with pytest.raises(InvalidInput, match=r"^'data.train' must be .*, got '', which does not exist$"):
        upload("")


def test_uploads_many_files_once(account: Account, bucket: str, data: Path) -> None:
    """Unchanged files are not sent again, even if they lie elsewhere and fill more than a page of a listing."""
    # GIVEN
    for number in range(1001):
        (data / f"{number:04}").touch()
    with Sent(account.s3) as sent:
        first = upload_data(data, channel="train", bucket=bucket, s3=account.s3)
    assert len(sent) == 1003
    moved = data.rename(data.with_name("moved"))
    os.utime(moved / "labels", (0, 0))

    # WHEN
    with Sent(account.s3) as sent:
        second = upload_data(moved, channel="test", bucket=bucket, s3=account.s3)

    # THEN
    assert (second, sent) == (first, [])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: (data / "labels").write_text("two"),
        lambda data: (data / "labels").rename(data / "names"),
        lambda data: (data / "new").write_text(""),
        lambda data: (data / "labels").unlink(),
    ],
)
def test_other_data_has_another_address(
    account: Account, bucket: str, upload: Upload, data: Path, change: Callable[[Path], object]
) -> None:
    """Data with any other content, name or file has another address, so that a running run is not disturbed."""
    # GIVEN
    first = upload_data(data, channel="train", bucket=bucket, s3=account.s3)
    before = upload(data)

    # WHEN
    change(data)
    second = upload_data(data, channel="train", bucket=bucket, s3=account.s3)

    # THEN
    assert second != first
    assert upload(data) == {
        str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()
    }
    address = S3Address.parse(first)
    assert {str(file.path): account.read(bucket, file.key) for file in list_files(account.s3, address)} == before


def test_goes_on_with_an_upload_that_was_cut_off(account: Account, bucket: str, upload: Upload, data: Path) -> None:
    """An upload that was interrupted sends only the files that did not arrive."""
    # GIVEN an upload whose network breaks at its last file
    for number in range(30):
        (data / f"{number:02}").write_text(str(number))
    last = f"{sorted(path.name for path in data.iterdir())[-1]}/a.txt"

    def breaks(params: dict[str, str], **_others: object) -> None:
        if params["url_path"].endswith(last):
            raise EndpointConnectionError(endpoint_url="https://s3.eu-west-1.amazonaws.com")

    account.s3.meta.events.register_first("before-call.s3.PutObject", breaks)
    with pytest.raises(EndpointConnectionError):
        upload(data)
    account.s3.meta.events.unregister("before-call.s3.PutObject", breaks)
    arrived = account.keys(bucket)
    assert arrived

    # WHEN
    with Sent(account.s3) as sent:
        found = upload(data)

    # THEN
    assert {key.partition("/")[2] for key in sent} & {key.partition("/")[2] for key in arrived} == set()
    assert len(sent) + len(arrived) == len(found) == 32
    assert found["one/a.txt"] == b"1"


def test_replaces_what_is_not_as_it_should_be(account: Account, bucket: str, upload: Upload, data: Path) -> None:
    """An object whose size is not its file's is replaced."""
    # GIVEN
    address = S3Address.parse(upload_data(data, channel="train", bucket=bucket, s3=account.s3))
    account.s3.put_object(Bucket=bucket, Key=f"{address.key}one/a.txt", Body=b"")

    # THEN
    assert upload(data) == {"one/a.txt": b"1", "labels": b"one"}


def test_sends_large_files_in_parts(upload: Upload, data: Path) -> None:
    """A file that is larger than a part arrives whole."""
    # GIVEN
    content = os.urandom(9 * 1024**2)
    (data / "large").write_bytes(content)

    # THEN
    assert upload(data)["large"] == content


def test_data_that_changes_meanwhile_is_refused(account: Account, bucket: str, data: Path) -> None:
    """A file that changes while it is uploaded is refused and removed, because its digest would be wrong."""
    # GIVEN a writer that comes while the file is sent
    sending: list[str] = []

    def write(progress: DataProgress) -> None:
        if progress.doing == "uploading" and progress.done_bytes:
            sending.append(progress.address)
            (data / "labels").write_text("six")

    # WHEN
    with pytest.raises(InvalidInput) as refused:
        upload_data(data / "labels", channel="train", bucket=bucket, s3=account.s3, watcher=write)

    # THEN
    assert sending
    assert str(refused.value) == (
        f"cannot upload '{data}/labels', which changed during the upload: try again when nothing writes to it"
    )
    assert account.keys(bucket) == set()


def test_data_that_cannot_be_read_is_named(upload: Upload, data: Path) -> None:
    """A file whose content cannot be read, as on a broken disk, is named with its channel."""
    # GIVEN
    (data / "labels").unlink()
    (data / "labels").symlink_to("/proc/self/mem")

    # THEN
    with pytest.raises(InvalidInput, match=rf"^'data.train' cannot be read at '{data}/labels': Input/output error$"):
        upload(data)


def test_ends_at_once_when_it_is_stopped(account: Account, bucket: str, tmp_path: Path) -> None:
    """An upload that is stopped, as by Ctrl-C, does not read large files to their ends first."""
    # GIVEN
    for name in ("a", "b", "c"):
        with (tmp_path / name).open("wb") as sparse:
            sparse.truncate(2 * 1024**3)
    read = 0

    def stop(progress: DataProgress) -> None:
        nonlocal read
        read = progress.done_bytes
        if read:
            raise KeyboardInterrupt

    # WHEN
    with pytest.raises(KeyboardInterrupt):
        upload_data(tmp_path, channel="train", bucket=bucket, s3=account.s3, watcher=stop)

    # THEN
    assert read < 2 * 1024**3


def test_dry_run_uploads_nothing(account: Account, bucket: str, upload: Upload, data: Path) -> None:
    """A dry run gives the address of data that is in S3, and refuses other data with what to do."""
    # WHEN
    with pytest.raises(InvalidInput, match=r"^'data.train' is not in S3 yet, and a dry run uploads nothing: run once"):
        upload_data(data, channel="train", bucket=bucket, s3=account.s3, dry_run=True)

    # THEN
    assert account.keys(bucket) == set()
    upload(data)
    address = upload_data(data, channel="train", bucket=bucket, s3=account.s3, dry_run=True)
    assert account.keys(bucket) == {f"{S3Address.parse(address).key}{name}" for name in ("labels", "one/a.txt")}


def test_tells_how_far_it_is(account: Account, bucket: str, data: Path) -> None:
    """Progress counts all bytes twice, as they are read and as they are sent, or once if nothing is sent."""

    # WHEN
    def told() -> Iterator[DataProgress]:
        seen: list[DataProgress] = []
        upload_data(data, channel="train", bucket=bucket, s3=account.s3, watcher=seen.append)
        for doing, of_it in itertools.groupby(seen, key=lambda progress: progress.doing):
            *_, last = of_it
            assert last.doing == doing
            yield last

    first, second = list(told()), list(told())

    # THEN
    facts = [(p.channel, p.doing, p.done_bytes, p.total_bytes, p.files) for p in first]
    assert facts == [
        ("train", "reading", 4, 4, 2),
        ("train", "uploading", 4, 4, 2),
        ("train", "uploaded", 0, 0, 2),
    ]
    assert [progress.doing for progress in second] == ["reading", "there"]
    assert first[-1].address == second[-1].address


def test_prints_little_where_there_is_no_terminal(
    account: Account, bucket: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal an upload prints two lines to stderr, and one if the data is there."""
    # WHEN
    for _ in range(2):
        with upload_shown() as watcher:
            address = upload_data(data, channel="train", bucket=bucket, s3=account.s3, watcher=watcher)

    # THEN
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"data.train: uploading 2 files, 4 B, to {address}",
        "data.train: uploaded",
        f"data.train: unchanged, 2 files at {address}",
    ]


def test_says_that_a_stopped_upload_goes_on(
    account: Account, bucket: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After Ctrl-C the tool says that the next upload goes on from there."""

    # WHEN
    def stopped() -> None:
        with upload_shown() as watcher:
            upload_data(data, channel="train", bucket=bucket, s3=account.s3, watcher=watcher)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()

    # THEN
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "the upload was stopped: run the same command again to upload the missing files"


SHOW = """
import time
from horovod_client.cli.upload_progress import upload_shown
from horovod_client.submit.local_data import DataProgress

with upload_shown() as watcher:
    for doing, done in (("reading", 0), ("uploading", 0), ("uploading", 1500), ("uploading", 3000), ("uploaded", 0)):
        watcher(DataProgress(
            channel="train", doing=doing, done_bytes=done, total_bytes=3000, files=2, address="s3://data/local-data/d/"
        ))
        time.sleep(0.3)
"""


def test_shows_a_bar_in_a_terminal() -> None:
    """A terminal shows what is done and how much of it, and in the end keeps one line."""
    # WHEN
    terminal = pexpect.spawn(
        sys.executable,
        ["-c", SHOW],
        encoding="utf-8",
        dimensions=(24, 120),
        env={**os.environ, "TERM": "xterm-256color"},
    )
    terminal.expect(pexpect.EOF)

    # THEN
    shown = printable(terminal.before or "")
    assert "data.train: reading 2 files" in shown
    assert re.search(r"data\.train: uploading 2 files .* 1\.5/3\.0 kB", shown)
    assert shown.splitlines()[-1].strip() == "data.train: uploaded"
