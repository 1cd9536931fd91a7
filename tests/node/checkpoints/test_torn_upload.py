"""A mirror that is killed at any moment: what is restored is whole, and never older than what S3 acknowledged."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import horovod_node
from horovod_node.checkpoints.manifest import CheckpointName, list_checkpoints
from horovod_node.checkpoints.restore import restore
from horovod_node.node.folders import Layout
from support.node import killable_mirror
from support.node.emulated_aws import REGION, Aws
from support.node.killable_mirror import Task, state
from support.waiting import eventually

RUN = "run-1"


@dataclass(kw_only=True)
class Killer:
    """Starts mirrors, kills them, and keeps what they said before."""

    aws: Aws
    folder: Path
    server: subprocess.Popen[str]
    attempt: int = 1
    states: dict[int, int] = field(default_factory=lambda: {0: 0})
    """Every state that a writer was about to complete, with the one that it found; 0 for none."""
    acknowledged: CheckpointName | None = None
    """The newest checkpoint that a mirror knew to be complete."""
    layout: Layout = field(init=False)
    """Of the node that goes on."""
    _nodes: int = 0

    def __post_init__(self) -> None:
        self.restore()

    def run_until(self, *, seconds: float | None) -> float:
        """
        Let a mirror work, then kill it.

        Args:
            seconds: How long; `None` for until S3 has acknowledged a checkpoint.

        Returns:
            How long it worked.
        """
        events = self.folder / f"events-{self._nodes}"
        events.touch()
        task = Task(
            endpoint=self.aws.endpoint,
            bucket=self.aws.model_bucket,
            folder=str(self.layout.checkpoints),
            run=RUN,
            attempt=self.attempt,
            first=max(self.states) + 1,
            events=str(events),
        )
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(f"{task.to_json()}\n")
        self.server.stdin.flush()
        child = int(self.server.stdout.readline())
        started = time.monotonic()
        if seconds is None:
            assert eventually(lambda: f"checkpoint {self.attempt} " in events.read_text())
        else:
            time.sleep(seconds)
        worked = time.monotonic() - started
        os.kill(child, signal.SIGKILL)
        assert self.server.stdout.readline() == "\n"
        for line in events.read_text().splitlines():
            kind, *numbers = line.split()
            if kind == "state":
                self.states[int(numbers[0])] = int(numbers[1])
            else:
                name = CheckpointName(run_id=RUN, attempt=int(numbers[0]), sequence=int(numbers[1]))
                self.acknowledged = max(name, self.acknowledged or name)
        return worked

    def restore(self) -> CheckpointName | None:
        """Restore on a fresh node, which goes on from there; give the checkpoint."""
        self._nodes += 1
        self.layout = Layout(root=self.folder / f"node-{self._nodes}")
        found = restore(
            self.aws.client("s3"), layout=self.layout, bucket=self.aws.model_bucket, run_id=RUN, resume_from=""
        )
        return found.name if found else None

    def check(self, restored: CheckpointName | None) -> None:
        """Compare what was restored with what the writers wrote."""
        if restored is None:
            assert self.acknowledged is None
            return
        assert self.acknowledged is None or restored >= self.acknowledged
        there = sorted(int(path.name) for path in self.layout.checkpoints.iterdir())
        newest = there[-1]
        # Between the moment at which one appears and that at which the one before goes there are two, both whole.
        assert there in ([newest], [self.states[newest], newest])
        for number in there:
            folder = self.layout.checkpoints / str(number)
            found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            assert found == state(number), f"state {number} is torn: {sorted(found)}"

    def torn(self) -> tuple[bool, bool]:
        """Tell whether the kill left a checkpoint without manifest, and half a file; half files go."""
        s3, bucket = self.aws.client("s3"), self.aws.model_bucket
        # Half files take S3's memory here; in AWS the bucket's lifecycle removes them.
        halves = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        for half in halves:
            # The last request of a process may arrive when it is dead, and end the upload.
            with contextlib.suppress(s3.exceptions.NoSuchUpload):
                s3.abort_multipart_upload(Bucket=bucket, Key=half["Key"], UploadId=half["UploadId"])
        newest = next(iter(list_checkpoints(s3, bucket=bucket, run_id=RUN)), None)
        return newest is not None and not newest.complete, bool(halves)


@pytest.fixture
def killer(aws: Aws, tmp_path: Path) -> Iterator[Killer]:
    """Start the program that starts mirrors."""
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "PYTHONPATH": str(Path(horovod_node.__file__).parents[1]),
    }
    with subprocess.Popen(
        [sys.executable, killable_mirror.__file__],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield Killer(aws=aws, folder=tmp_path, server=server)
        assert server.stdin is not None
        server.stdin.close()


@pytest.mark.parametrize("kills", [25, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_torn_upload_is_never_restored(killer: Killer, kills: int) -> None:
    """
    Wherever the mirror is killed, a fresh node restores one state of the writer's, whole, and none that is too old.

    The same run goes on all the time, on the restored node, in the same attempt or in the next one; so the mirrors find
    what killed ones left behind.
    """
    # GIVEN
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)  # noqa: S311 - no secret
    torn = halves = advanced = 0
    usual = 0.0
    for number in range(kills):
        before = killer.acknowledged
        if chance.random() < 0.2:
            killer.attempt += 1
        # WHEN
        if number % 5 == 0:
            # Right behind a checkpoint; the machine may be faster or slower by now.
            usual = killer.run_until(seconds=None)
        else:
            killer.run_until(seconds=chance.uniform(0, 2 * usual))
        left_torn, left_half = killer.torn()
        torn, halves, advanced = torn + left_torn, halves + left_half, advanced + (killer.acknowledged != before)
        # THEN
        killer.check(killer.restore())
    print(f"of {kills} kills {torn} left a torn checkpoint, {halves} half a file; {advanced} came after a whole one")
    # These are kills in the middle, and not beside it.
    assert torn > kills / 10
    assert advanced > kills / 20
