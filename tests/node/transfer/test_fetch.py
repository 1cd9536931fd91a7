"""The script's archive and the data channels, from S3's API."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from threading import Event

import pytest
from botocore.exceptions import ClientError

from horovod_client.submit.source import package_source
from horovod_node import contract
from horovod_node.node.errors import RunError
from horovod_node.node.folders import Layout
from horovod_node.transfer.data_channels import fetch_channels, list_files
from horovod_node.transfer.s3 import S3Address, refused, unwritten
from horovod_node.transfer.source import fetch_source
from support.node.emulated_aws import Aws


def archive(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """Make a .tar.gz of files, or of members that no honest archive has."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return packed.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    """Make a symbolic link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(root=tmp_path / "ml")
    layout.create()
    return layout


def put(aws: Aws, **objects: bytes) -> None:
    for key, body in objects.items():
        aws.client("s3").put_object(Bucket=aws.data_bucket, Key=key, Body=body)


def test_source_is_unpacked(aws: Aws, layout: Layout) -> None:
    """The archive's files lie in the code folder as they lay in the user's."""
    # GIVEN
    put(aws, source=archive(("train.py", b"pass"), ("nets/cnn.py", b"x = 1")))
    # WHEN
    fetch_source(aws.client("s3"), uri=f"s3://{aws.data_bucket}/source", entry_point="train.py", into=layout.code)
    # THEN
    assert {str(path.relative_to(layout.code)): path.read_bytes() for path in layout.code.rglob("*.py")} == {
        "train.py": b"pass",
        "nets/cnn.py": b"x = 1",
    }


def test_source_is_compared_with_its_digest(aws: Aws, layout: Layout, tmp_path: Path) -> None:
    """What the client packaged is taken; what lies in its place is refused."""
    # GIVEN
    (tmp_path / "train.py").write_bytes(b"print(1)")
    package = package_source(tmp_path / "train.py")
    key = contract.source_key(package.digest)
    uri = f"s3://{aws.data_bucket}/{key}"
    put(aws, **{key: package.archive})
    # WHEN
    fetch_source(aws.client("s3"), uri=uri, entry_point="train.py", into=layout.code)
    # THEN
    assert (layout.code / "train.py").read_bytes() == b"print(1)"
    # AND
    forged = archive(("train.py", b"forged"), ("more.py", b""))
    put(aws, **{key: forged})
    layout.create()
    with pytest.raises(RunError) as raised:
        fetch_source(aws.client("s3"), uri=uri, entry_point="train.py", into=layout.code)
    found = hashlib.sha256(gzip.decompress(forged)).hexdigest()
    assert (raised.value.error, raised.value.message) == (
        contract.ERROR_INVALID_REQUEST,
        f"'source' is not what was packaged: {uri} must hold an archive with the SHA-256 digest {package.digest}, but "
        f"that of its content is {found}.",
    )


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../outside.py", b""), "s3://.* was refused: it would write outside of its folder: it holds '../outside.py'"),
        (("nets/../../outside.py", b""), "would write outside of its folder"),
        (("/tmp/outside.py", b""), "would write outside of its folder"),
        (link("outside", "../.."), "may hold files and folders only: 'outside' is a link or a device"),
        (link("train.py", "/etc/passwd"), "may hold files and folders only"),
    ],
    ids=["parent", "parent-within", "absolute", "link-up", "link-absolute"],
)
def test_fails_when_the_source_would_write_elsewhere(
    aws: Aws, layout: Layout, member: tuple[str, bytes] | tarfile.TarInfo, message: str
) -> None:
    """Nothing of an archive lands outside of the code folder."""
    # GIVEN
    put(aws, source=archive(("train.py", b""), member))
    # WHEN / THEN
    with pytest.raises(RunError, match=message) as raised:
        fetch_source(aws.client("s3"), uri=f"s3://{aws.data_bucket}/source", entry_point="train.py", into=layout.code)
    assert raised.value.error == contract.ERROR_INVALID_REQUEST
    assert [path for path in layout.root.parent.rglob("outside*") if not path.is_relative_to(layout.code)] == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"PK\x03\x04 a zip file", "must be a .tar.gz of a script's folder, but s3://"),
        (archive(("train.py", b"x" * 5000))[:-40], "must be a .tar.gz of a script's folder, but s3://"),
    ],
    ids=["zip", "cut"],
)
def test_fails_when_the_source_is_no_archive(aws: Aws, layout: Layout, body: bytes, message: str) -> None:
    """Another format, and an upload that broke off, are named."""
    # GIVEN
    put(aws, source=body)
    # WHEN / THEN
    with pytest.raises(RunError, match=message) as raised:
        fetch_source(aws.client("s3"), uri=f"s3://{aws.data_bucket}/source", entry_point="train.py", into=layout.code)
    assert raised.value.error == contract.ERROR_INVALID_REQUEST


@pytest.mark.parametrize("number", [0o377, 0o200])
def test_no_damage_makes_a_second_try(aws: Aws, layout: Layout, number: int) -> None:
    """Headers with sizes below zero or beyond everything are the request's fault, which no other node can mend."""
    # GIVEN an archive whose header says a binary size, and is right otherwise
    tar = bytearray(gzip.decompress(archive(("train.py", b"x" * 600))))
    tar[124:136] = bytes([number]) + b"\xff" * 11 if number == 0o200 else bytes([number]) + b"\x00" * 11
    tar[148:156] = b"%06o\0 " % (256 + sum(tar[:148]) + sum(tar[156:512]))
    put(aws, source=gzip.compress(bytes(tar)))
    # WHEN / THEN
    with pytest.raises(RunError, match=r"must be a \.tar\.gz of") as raised:
        fetch_source(aws.client("s3"), uri=f"s3://{aws.data_bucket}/source", entry_point="train.py", into=layout.code)
    assert raised.value.error == contract.ERROR_INVALID_REQUEST


def test_fails_when_the_script_is_not_in_the_source(aws: Aws, layout: Layout) -> None:
    """One sentence names the script, the archive and what it holds instead."""
    # GIVEN
    put(aws, source=archive(("train.py", b""), ("README", b"")))
    uri = f"s3://{aws.data_bucket}/source"
    # WHEN / THEN
    with pytest.raises(RunError) as raised:
        fetch_source(aws.client("s3"), uri=uri, entry_point="tarin.py", into=layout.code)
    assert raised.value.error == contract.ERROR_INVALID_REQUEST
    assert raised.value.message == (
        f"'entry_point' is tarin.py, which the archive {uri} does not hold; its Python files are train.py."
    )


@pytest.mark.parametrize("bucket", ["", "no-such-bucket-"])
def test_fails_when_the_source_is_not_there(aws: Aws, layout: Layout, bucket: str) -> None:
    """A missing archive and a missing bucket are the request's fault, and named."""
    # GIVEN
    uri = f"s3://{bucket}{aws.data_bucket}/nothing.tar.gz"
    # WHEN / THEN
    with pytest.raises(RunError) as raised:
        fetch_source(aws.client("s3"), uri=uri, entry_point="train.py", into=layout.code)
    assert raised.value.error == contract.ERROR_DATA_NOT_FOUND
    assert raised.value.message == f"The script's archive, 'source', is not there: S3 has no {uri}."


@pytest.mark.parametrize("slash", ["", "/"])
def test_channel_lands_under_its_relative_paths(aws: Aws, layout: Layout, slash: str) -> None:
    """A prefix is a folder, with or without a closing slash; its neighbours of a like name stay out."""
    # GIVEN
    put(aws, **{"set/a.npz": b"aaa", "set/deep/b.npz": b"bb", "set/": b"", "set-old/c.npz": b"c"})
    # WHEN
    received = fetch_channels(aws.client("s3"), data={"train": f"s3://{aws.data_bucket}/set{slash}"}, layout=layout)
    # THEN
    folder = layout.channel("train")
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        "a.npz": b"aaa",
        "deep/b.npz": b"bb",
    }
    assert received == 5


def test_channel_may_be_one_object(aws: Aws, layout: Layout) -> None:
    """The address of an object brings that object under its own name."""
    # GIVEN
    put(aws, **{"sets/digits.npz": b"digits", "sets/digits.npz.bak": b"old"})
    # WHEN
    fetch_channels(aws.client("s3"), data={"train": f"s3://{aws.data_bucket}/sets/digits.npz"}, layout=layout)
    # THEN
    assert [path.name for path in layout.channel("train").iterdir()] == ["digits.npz"]


def test_channel_is_resumed(aws: Aws, layout: Layout) -> None:
    """A second start brings only what is missing, changed in S3 or cut on the disk, and removes what S3 lost."""
    # GIVEN
    put(aws, **{"set/same": b"1234", "set/changed": b"1234", "set/cut": b"1234", "set/gone": b"1234"})
    data = {"train": f"s3://{aws.data_bucket}/set/"}
    s3, folder = aws.client("s3"), layout.channel("train")
    first = fetch_channels(s3, data=data, layout=layout)
    put(aws, **{"set/changed": b"5678", "set/new": b"12"})
    s3.delete_object(Bucket=aws.data_bucket, Key="set/gone")
    (folder / "cut").write_bytes(b"12")
    # WHEN
    second = fetch_channels(s3, data=data, layout=layout)
    # THEN
    assert [first, second] == [16, 10]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "same": b"1234",
        "changed": b"5678",
        "cut": b"1234",
        "new": b"12",
    }


def test_many_pages_of_keys_are_listed(aws: Aws) -> None:
    """S3 lists a thousand keys at a time, or fewer when it likes."""
    # GIVEN a client that asks for pages of two
    s3 = aws.client("s3")
    s3.meta.events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 2})
    put(aws, **{f"many/{number}": b"" for number in range(5)})
    # WHEN
    files = list(list_files(s3, S3Address(bucket=aws.data_bucket, key="many")))
    # THEN
    assert [file.path for file in files] == [PurePosixPath(str(number)) for number in range(5)]


@pytest.mark.parametrize("key", ["empty", "empty/"])
def test_fails_when_a_channel_is_empty(aws: Aws, layout: Layout, key: str) -> None:
    """The error names the channel and its address."""
    # GIVEN
    put(aws, **{"empty/": b"", "emptyish/file": b""})
    uri = f"s3://{aws.data_bucket}/{key}"
    # WHEN / THEN
    with pytest.raises(RunError) as raised:
        fetch_channels(aws.client("s3"), data={"test": uri}, layout=layout)
    assert [raised.value.error, raised.value.message] == [
        contract.ERROR_DATA_NOT_FOUND,
        f"Data channel 'test' is empty: {uri} holds no object.",
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["set/../../outside"], "would be written outside of its folder"),
        (["set/."], "would be written outside of its folder"),
        ([f"set/{'é' * 128}.jpg"], "of which a part is not a valid file name: at most 255 bytes"),
        (["set/a", "set/a/b"], "cannot be a folder"),
        (["set/a//b", "set/a/b"], "holds more than one key that would become 'a/b'"),
    ],
)
def test_fails_when_keys_are_no_paths(aws: Aws, layout: Layout, keys: list[str], message: str) -> None:
    """S3's keys are any text; those that no folder can hold are refused before a byte is written."""
    # GIVEN
    put(aws, **dict.fromkeys(keys, b"x"))
    # WHEN / THEN
    with pytest.raises(RunError, match=message) as raised:
        fetch_channels(aws.client("s3"), data={"train": f"s3://{aws.data_bucket}/set"}, layout=layout)
    assert raised.value.error == contract.ERROR_INVALID_REQUEST
    assert [path for path in layout.root.rglob("*") if path.is_file()] == []


def test_doubled_slashes_are_data(aws: Aws, layout: Layout) -> None:
    """S3 takes a key with an empty part; on the disk it lies where a path with such a part leads."""
    # GIVEN
    put(aws, **{"set//a": b"1", "set/deep//b": b"2", "set//": b"", f"set/{'x' * 255}": b"3"})
    # WHEN
    fetch_channels(aws.client("s3"), data={"train": f"s3://{aws.data_bucket}/set"}, layout=layout)
    # THEN
    folder = layout.channel("train")
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        "a": b"1",
        "deep/b": b"2",
        "x" * 255: b"3",
    }


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_whole_bucket_may_be_a_channel(aws: Aws, layout: Layout, slash: str) -> None:
    """The address of a bucket brings every object in it."""
    # GIVEN
    put(aws, **{"a": b"1", "deep/b": b"2"})
    # WHEN
    fetch_channels(aws.client("s3"), data={"train": f"s3://{aws.data_bucket}{slash}"}, layout=layout)
    # THEN
    assert (layout.channel("train") / "a").read_bytes() == b"1"
    assert (layout.channel("train") / "deep/b").read_bytes() == b"2"


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_ends_the_run(aws: Aws, layout: Layout, storage_class: str) -> None:
    """The sentence names the object, and what makes it readable; nothing else was downloaded before."""
    # GIVEN
    put(aws, **{f"cold/{number}": b"x" for number in range(40)})
    aws.client("s3").put_object(Bucket=aws.data_bucket, Key="cold/z", Body=b"x", StorageClass=storage_class)
    # WHEN / THEN
    with pytest.raises(RunError) as raised:
        fetch_channels(aws.client("s3"), data={"train": f"s3://{aws.data_bucket}/cold"}, layout=layout)
    assert (raised.value.error, raised.value.message) == (
        contract.ERROR_STORAGE_REFUSED,
        f"Data channel 'train' is archived: s3://{aws.data_bucket}/cold/z cannot be read before it is restored or "
        "copied to another storage class, for example with aws s3api restore-object or aws s3 cp.",
    )
    # AND once it is restored, it is data
    aws.client("s3").restore_object(Bucket=aws.data_bucket, Key="cold/z", RestoreRequest={"Days": 1})
    fetch_channels(aws.client("s3"), data={"train": f"s3://{aws.data_bucket}/cold"}, layout=layout)
    assert (layout.channel("train") / "z").read_bytes() == b"x"


def test_a_denied_object_ends_the_run(aws: Aws, layout: Layout) -> None:
    """The sentence names the object and where to look for its permission."""
    # GIVEN an object that the node's role may list and not read
    put(aws, **{"shut/a": b"x", "shut/b": b"x"})
    s3 = aws.client("s3")

    def deny(params: dict[str, object], **_: object) -> None:
        if params["Key"] == "shut/b":
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")

    s3.meta.events.register("provide-client-params.s3.HeadObject", deny)
    # WHEN / THEN
    with pytest.raises(RunError) as raised:
        fetch_channels(s3, data={"train": f"s3://{aws.data_bucket}/shut"}, layout=layout)
    assert raised.value.error == contract.ERROR_STORAGE_REFUSED
    assert f"S3 denies this training's nodes access to s3://{aws.data_bucket}/shut/b" in raised.value.message
    assert "'data_buckets' of HorovodTraining" in raised.value.message


def test_a_fetch_begins_while_downloads_of_a_failed_one_still_run(aws: Aws, layout: Layout) -> None:
    """A node that fetches again for its next attempt gets everything, whatever is left of the fetch before."""
    # GIVEN a fetch that failed on one object while it still waits for the other one
    put(aws, **{"late/a": b"1", "late/b": b"2"})
    s3 = aws.client("s3")
    waits, released = Event(), Event()

    def hold(params: dict[str, object], **_: object) -> None:
        if params["Key"] == "late/a":
            waits.set()
            released.wait(60)
        else:
            waits.wait(60)
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")

    s3.meta.events.register("provide-client-params.s3.HeadObject", hold)
    with pytest.raises(RunError):
        fetch_channels(s3, data={"train": f"s3://{aws.data_bucket}/late"}, layout=layout)
    # WHEN
    fetch_channels(aws.client("s3"), data={"train": f"s3://{aws.data_bucket}/late"}, layout=layout)
    released.set()
    # THEN
    found = {path.name: path.read_bytes() for path in layout.channel("train").iterdir()}
    assert found == {"a": b"1", "b": b"2"}


def client_error(code: str) -> ClientError:
    """Make S3's answer with an error code."""
    return ClientError({"Error": {"Code": code, "Message": "said S3"}}, "GetObject")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("403", contract.ERROR_STORAGE_REFUSED),
        ("AccessDenied", contract.ERROR_STORAGE_REFUSED),
        ("KMS.DisabledException", contract.ERROR_STORAGE_REFUSED),
        ("KMS.NotFoundException", contract.ERROR_STORAGE_REFUSED),
        ("KeyTooLongError", contract.ERROR_STORAGE_REFUSED),
        ("PermanentRedirect", contract.ERROR_STORAGE_REFUSED),
        ("NoSuchKey", contract.ERROR_DATA_NOT_FOUND),
        ("KMS.ThrottlingException", contract.ERROR_NODE_FAILED),
        ("SlowDown", contract.ERROR_NODE_FAILED),
        ("InternalError", contract.ERROR_NODE_FAILED),
        ("ExpiredToken", contract.ERROR_NODE_FAILED),
        ("PreconditionFailed", contract.ERROR_NODE_FAILED),
    ],
)
def test_only_what_may_pass_is_tried_again(code: str, error: str) -> None:
    """Of the run's errors only NodeFailed has a next attempt: what S3 will never give has another name."""
    told = refused("Data channel 'train'", "s3://bucket/key", client_error(code))
    assert (told.error, "s3://bucket/key" in told.message) == (error, True)


def test_data_that_the_disk_cannot_hold_ends_the_run(aws: Aws, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room is looked at before the first byte comes; a disk that fills up while they come is told alike."""
    # GIVEN
    put(aws, **{"big/a": b"x" * 600, "big/b": b"x" * 600})
    data = {"train": f"s3://{aws.data_bucket}/big"}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2000, 1000, 1000))
    # WHEN / THEN
    with pytest.raises(RunError) as raised:
        fetch_channels(aws.client("s3"), data=data, layout=layout)
    assert (raised.value.error, raised.value.message) == (
        contract.ERROR_DISK_FULL,
        f"Data channel 'train' does not fit on the node's disk at {layout.channel('train')}: 1,200 bytes are to be "
        "downloaded and 1,000 bytes are free. Use instance types with more local storage, or give the fleet a larger "
        "volume.",
    )
    # AND
    with pytest.raises(OSError, match="No space left") as full, Path("/dev/full").open("wb", buffering=0) as device:
        device.write(b"x")
    assert unwritten("The checkpoint", layout.checkpoints, full.value).error == contract.ERROR_DISK_FULL
