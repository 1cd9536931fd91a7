"""What a checkpoint is: its manifest, its name, and which one is the newest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horovod_node import contract
from horovod_node.checkpoints.manifest import (
    CheckpointFile,
    CheckpointName,
    FoundCheckpoint,
    Manifest,
    ManifestError,
    complete_checkpoints,
    list_checkpoints,
)
from horovod_node.checkpoints.prune import superfluous
from support.node.emulated_aws import Aws

DIGEST = hashlib.sha256(b"").hexdigest()
NAME = CheckpointName(run_id="run-1", attempt=2, sequence=17)

names = st.text("ab.0-_ é", min_size=1, max_size=4).filter(lambda name: not name.startswith("."))
files = st.builds(
    CheckpointFile,
    # Folders end with a sign that no file ends with, so that no file is the folder of another.
    path=st.tuples(st.lists(names.map(lambda name: f"{name}+/"), max_size=2), names).map(
        lambda path: "".join(path[0]) + path[1]
    ),
    bytes=st.integers(0, 2**50),
    sha256=st.binary(max_size=4).map(lambda content: hashlib.sha256(content).hexdigest()),
    mtime_ns=st.integers(0, 2**63),
)
manifests = st.builds(
    Manifest,
    name=st.builds(
        CheckpointName,
        run_id=st.from_regex(contract.RUN_NAME_PATTERN, fullmatch=True),
        attempt=st.integers(1, 20_000),
        sequence=st.integers(1, 10**9),
    ),
    step=st.none() | st.integers(0, 10**9),
    created_at=st.integers(0, 2**40),
    files=st.lists(files, unique_by=lambda file: file.path, max_size=5).map(tuple),
)


@given(manifests)
def test_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    """Nothing is lost on the way through JSON."""
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/x", "", "a//b", "a/", "./a", ".hidden", "a/.hidden/b", "a\nb", "a\0b", "\udcff"],
)
def test_fails_when_a_path_would_leave_the_folder(path: str) -> None:
    """Whoever can write to the bucket cannot write elsewhere on a node."""
    # GIVEN
    honest = manifest_of("a").to_json()
    # WHEN / THEN
    with pytest.raises(ManifestError, match="a checkpoint cannot hold a file at "):
        Manifest.from_json(honest.replace('"path": "a"', f'"path": {json.dumps(path)}'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "it is no manifest of version 2"),
        ({"run_id": 1}, "'run_id' must be a string"),
        ({"attempt": "1"}, "'attempt' must be a whole number"),
        ({"sequence": True}, "'sequence' must be a whole number"),
        ({"step": 1.5}, "'step' must be a whole number"),
        ({"created_at": None}, "'created_at' must be a whole number"),
        ({"files": {}}, "'files' must be a list"),
        ({"files": ["a"]}, "'path' must be a string"),
        ({"files": [{"path": "a", "bytes": -1, "sha256": DIGEST, "mtime_ns": 0}]}, "'a' cannot have -1 bytes"),
        ({"files": [{"path": "a", "bytes": 1, "sha256": "abc", "mtime_ns": 0}]}, "'a' has no SHA-256 digest: 'abc'"),
        ({"bytes": 5}, "its files have 1 bytes, not 5"),
    ],
)
def test_fails_when_a_manifest_is_none(change: dict[str, Any], message: str) -> None:
    """One sentence says what is wrong with it."""
    # GIVEN
    fields = json.loads(manifest_of("a").to_json()) | change
    # WHEN / THEN
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100_000])
def test_fails_when_a_manifest_is_no_object(text: str) -> None:
    """Whatever lies under a manifest's key, it is refused in the same way."""
    with pytest.raises(ManifestError, match="it is no "):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("paths", "message"),
    [(("a", "a"), "two files have the same path"), (("a", "a/b"), "'a' cannot be a file and the folder of 'a/b'")],
)
def test_fails_when_files_cannot_lie_in_one_folder(paths: tuple[str, ...], message: str) -> None:
    """S3's keys can say what no folder can."""
    with pytest.raises(ManifestError, match=message):
        manifest_of(*paths)


def test_newest_is_found_by_attempt_and_sequence(aws: Aws) -> None:
    """A leader that was given up may write late: its checkpoints stand behind those of the attempt that came after."""
    # GIVEN in the order in which they are written
    put(aws, (1, 1), (1, 2), (2, 1), (10, 1), (9, 12), (1, 3))
    put(aws, (10, 2), complete=False)
    # THEN
    s3, bucket = aws.client("s3"), aws.model_bucket
    found = [(name.attempt, name.sequence) for name in complete_checkpoints(s3, bucket=bucket, run_id="run-1")]
    assert found == [(10, 1), (9, 12), (2, 1), (1, 3), (1, 2), (1, 1)]
    # AND another run has none
    assert complete_checkpoints(s3, bucket=bucket, run_id="run-2") == []


def test_manifest_of_the_scripts_own_completes_nothing(aws: Aws) -> None:
    """A script may call its file as it likes; other keys and runs whose name begins alike stay out."""
    # GIVEN
    s3 = aws.client("s3")
    name = CheckpointName(run_id="run-1", attempt=1, sequence=1)
    for key in (name.file_key("manifest.json"), "checkpoints/run-1/notes/manifest.json"):
        s3.put_object(Bucket=aws.model_bucket, Key=key, Body=b"{}")
    s3.put_object(Bucket=aws.model_bucket, Key="checkpoints/run-11/0001-00000001/manifest.json", Body=b"{}")
    # WHEN
    found = list_checkpoints(s3, bucket=aws.model_bucket, run_id="run-1")
    # THEN
    assert found == [FoundCheckpoint(name=name, complete=False, keys=[name.file_key("manifest.json")])]


@pytest.mark.parametrize(
    ("found", "attempt", "keep", "old"),
    [
        ("1-1 1-2 1-3", 1, 2, "1-1"),
        ("1-1 1-2 1-3", 1, 5, ""),
        ("1-1 1-2 2-1", 2, 2, "1-1"),
        ("1-1 1-2t 1-3 1-4t", 1, 9, "1-2t"),
        ("1-1t", 1, 1, ""),
        ("1-1 1-2 1-3t 2-1 2-2", 1, 1, "1-1 1-2 1-3t"),
        ("1-1 2-1t 2-2 2-3", 1, 1, "1-1"),
        ("1-1 1-2 2-1t", 1, 1, "1-1"),
    ],
)
def test_superfluous_is_what_newer_ones_replace(found: str, attempt: int, keep: int, old: str) -> None:
    """Beyond the newest, and torn before the newest; never what a later attempt wrote."""
    # GIVEN from the oldest to the newest, a "t" for torn
    checkpoints = [
        FoundCheckpoint(
            name=CheckpointName(run_id="r", attempt=int(text[0]), sequence=int(text[2])),
            complete=len(text) == 3,
            keys=(),
        )
        for text in found.split()
    ]
    # WHEN
    superfluous_ones = superfluous(checkpoints[::-1], attempt=attempt, keep=keep)
    # THEN
    texts = [f"{each.name.attempt}-{each.name.sequence}{'' if each.complete else 't'}" for each in superfluous_ones]
    assert texts[::-1] == old.split()


def manifest_of(*paths: str) -> Manifest:
    """Make a manifest of files of a byte."""
    return Manifest(
        name=NAME,
        step=None,
        created_at=0,
        files=tuple(CheckpointFile(path=path, bytes=1, sha256=DIGEST, mtime_ns=0) for path in paths),
    )


def put(aws: Aws, *places: tuple[int, int], complete: bool = True) -> None:
    """Put a file and, for a complete checkpoint, a manifest."""
    for attempt, sequence in places:
        name = CheckpointName(run_id="run-1", attempt=attempt, sequence=sequence)
        for key in [name.file_key("weights"), *([name.manifest_key] if complete else [])]:
            aws.client("s3").put_object(Bucket=aws.model_bucket, Key=key, Body=b"{}")
