"""The checkpoints' folder, mirrored to S3 while the script trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from horovod_node import contract
from horovod_node.checkpoints.checkpoint_upload import PART_BYTES, CheckpointUpload, StoppedError
from horovod_node.checkpoints.manifest import CheckpointName, Manifest, ManifestError, list_checkpoints, read_manifest
from horovod_node.checkpoints.prune import prune
from horovod_node.checkpoints.snapshot import ChangedError, Snapshot, held, look, release

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""
Between two looks at the folder; a change that was seen twice is uploaded. It is longer than a script pauses between the
files of one checkpoint, and costs at most as much work again as a lost leader costs anyway.
"""
RESTLESS_SECONDS = 60.0
"""
After so long without two equal looks, looks follow each other closely, for the pauses of a script that saves every few
seconds. Sooner, a script that takes long over one large checkpoint would be caught when it pauses in the middle.
"""
_RESTLESS_LOOK_SECONDS = 0.5
"""Much longer than the clock's tick of every file system, within which two writes have the same time."""
_LONGEST_PAUSE = 16
"""Looks that are left out, at most, while S3 does not take what was found."""
STILL_SECONDS = 0.5
"""A flush does not wait for the next look, but for this long it looks whether somebody still writes."""
CLOSE_SECONDS = 2.0
"""How long closing waits for the thread: what it uploads is read on until the next part."""


class CheckpointMirror:
    """
    Brings every new state of a folder to S3, each as a checkpoint of its own, in a thread of its own.

    Whatever goes wrong is logged, kept as `trouble`, and tried again at the next look: the training goes on.

    Args:
        s3: boto3 client.
        folder: The checkpoints' folder.
        bucket: Where the checkpoints go.
        run_id: The run that makes them.
        attempt: The attempt of the run.
        keep: So many of the run's checkpoints stay in S3.
        step: Gives the training steps that have been made. Default: nobody knows.
        look_seconds: Between two looks. Default: `LOOK_SECONDS`.
        part_bytes: Larger files go in parts of this size; S3 takes no parts below 5 MiB. Default: `PART_BYTES`.
    """

    def __init__(
        self,
        s3: S3Client,
        *,
        folder: Path,
        bucket: str,
        run_id: str,
        attempt: int,
        keep: int,
        step: Callable[[], int | None] = lambda: None,
        look_seconds: float = LOOK_SECONDS,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._s3 = s3
        self._folder = folder
        self._bucket = bucket
        self._run_id = run_id
        self._attempt = attempt
        self._keep = keep
        self._step = step
        self._look_seconds = look_seconds
        self._part_bytes = part_bytes
        self.newest: CheckpointName | None = None
        """The run's newest complete checkpoint, as far as is known."""
        self.trouble = ""
        """Why the last upload failed, in a sentence; '' when it did not."""
        self._sequence: int | None = None
        self._mirrored: Snapshot | None = None
        self._seen: Snapshot = ()
        self._left_out: set[str] = set()
        self._restless_since: float | None = None
        self._failures = 0
        self._flushes: list[Future[CheckpointName | None]] = []
        self._lock = Lock()
        self._whole = Event()
        self._stopped = Event()
        self._wake = Event()
        self._thread = Thread(target=self._mirror, name="checkpoint-mirror", daemon=True)
        release(folder)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where the run's checkpoints are, for people."""
        return f"s3://{self._bucket}/{contract.checkpoint_prefix(self._run_id)}"

    @property
    def folder(self) -> Path:
        """What is mirrored."""
        return self._folder

    def uri(self, name: CheckpointName) -> str:
        """Where the checkpoint *name* is, for people."""
        return name.uri(self._bucket)

    def notice(self) -> None:
        """Mirror what is in the folder now without a second look: the script says that nothing in it is half."""
        self._whole.set()
        self._wake.set()

    def flush(self) -> Future[CheckpointName | None]:
        """
        Mirror what is in the folder now, without waiting here.

        An upload that is under way is finished first. What still changes is waited for: the caller has the patience.

        Returns:
            Done when the present state is in S3: the run's newest checkpoint, `None` if there never was one; or the
            error that kept it from there. Cancelled when the mirror is closed before.
        """
        flush: Future[CheckpointName | None] = Future()
        with self._lock:
            if self._stopped.is_set():
                flush.cancel()
            else:
                self._flushes.append(flush)
        self._wake.set()
        return flush

    def close(self, wait_seconds: float = CLOSE_SECONDS) -> None:
        """Stop mirroring; a checkpoint that is under way is not completed."""
        with self._lock:
            self._stopped.set()
        self._wake.set()
        self._thread.join(wait_seconds)
        for flush in self._take_flushes():
            flush.cancel()

    def _mirror(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            flushes = self._take_flushes()
            try:
                if flushes:
                    self._flush()
                else:
                    self._look()
            except StoppedError:
                _cancel(flushes)
            except ChangedError as change:
                self._trouble(str(change))
                self._ask_again(flushes)
            except Exception as error:  # whatever it is: the training goes on, and so does the mirror
                self._failures += 1
                self._trouble(str(error))
                for flush in flushes:
                    flush.set_exception(error)
            else:
                self._failures = 0
                for flush in flushes:
                    flush.set_result(self.newest)
            self._wake.wait(self._pause())
        _cancel(self._take_flushes())

    def _look(self) -> None:
        """Upload what the folder holds if it is new, and was the same at the last look or is known to be whole."""
        whole = self._whole.is_set()
        self._whole.clear()
        snapshot = look(self._folder, left_out=self._say_left_out)
        if self._is_mirrored(snapshot):
            self._restless_since = None
        elif whole or snapshot == self._seen:
            self._upload(snapshot)
            self._restless_since = None
        elif self._restless_since is None:
            self._restless_since = time.monotonic()
        self._seen = snapshot

    def _flush(self) -> None:
        """Upload what the folder holds as soon as it holds still."""
        while True:
            snapshot = look(self._folder, left_out=self._say_left_out)
            if self._is_mirrored(snapshot):
                return None
            if self._stopped.wait(STILL_SECONDS):
                raise StoppedError
            if look(self._folder) == snapshot:
                return self._upload(snapshot)

    def _is_mirrored(self, snapshot: Snapshot) -> bool:
        """Answer whether there is nothing to upload. At first S3 tells: this state may come from there."""
        if self._sequence is None:
            self._take_up()
            newest = self._newest_manifest()
            if newest is not None and _same(snapshot, newest):
                self._mirrored = snapshot
        return not snapshot or snapshot == self._mirrored

    def _take_up(self) -> None:
        """Go on where an earlier agent of this attempt ended."""
        found = list_checkpoints(self._s3, bucket=self._bucket, run_id=self._run_id)
        self.newest = next((checkpoint.name for checkpoint in found if checkpoint.complete), None)
        # Torn ones count, too: what is left of them belongs to no other.
        mine = [checkpoint.name.sequence for checkpoint in found if checkpoint.name.attempt == self._attempt]
        self._sequence = max(mine, default=0)

    def _newest_manifest(self) -> Manifest | None:
        if self.newest is None:
            return None
        try:
            return read_manifest(self._s3, bucket=self._bucket, name=self.newest)
        except ManifestError:
            return None

    def _upload(self, snapshot: Snapshot) -> None:
        assert self._sequence is not None
        started = time.monotonic()
        self._sequence += 1
        name = CheckpointName(run_id=self._run_id, attempt=self._attempt, sequence=self._sequence)
        with held(self._folder, snapshot) as holding:
            upload = CheckpointUpload(
                self._s3,
                bucket=self._bucket,
                name=name,
                folder=holding,
                snapshot=snapshot,
                step=self._step(),
                part_bytes=self._part_bytes,
                stopped=self._stopped,
            )
            try:
                manifest = upload.run()
            except StoppedError:
                raise
            except Exception:
                upload.withdraw()
                raise
        self._mirrored, self.newest, self.trouble = snapshot, name, ""
        _log.info(
            "checkpoint %s: %d files, %s bytes, %.1f s",
            self.uri(name),
            len(manifest.files),
            f"{manifest.total_bytes:,}",
            time.monotonic() - started,
        )
        try:
            prune(self._s3, bucket=self._bucket, run_id=self._run_id, attempt=self._attempt, keep=self._keep)
        except Exception as error:  # older checkpoints that stay do no harm; the next upload prunes again
            _log.warning("older checkpoints of %s could not be removed: %s", self.address, error)

    def _pause(self) -> float:
        if self._failures:
            return self._look_seconds * min(1 << self._failures, _LONGEST_PAUSE)
        since = self._restless_since
        if since is not None and time.monotonic() - since > RESTLESS_SECONDS:
            return min(_RESTLESS_LOOK_SECONDS, self._look_seconds)
        return self._look_seconds

    def _say_left_out(self, path: str, why: str) -> None:
        if path not in self._left_out:
            self._left_out.add(path)
            _log.warning("no checkpoint holds %r of SM_CHECKPOINT_DIR: %s", path, why)

    def _trouble(self, sentence: str) -> None:
        if sentence != self.trouble:
            _log.warning("no checkpoint at %s: %s", self.address, sentence)
        self.trouble = sentence

    def _take_flushes(self) -> list[Future[CheckpointName | None]]:
        with self._lock:
            taken, self._flushes = self._flushes, []
        return taken

    def _ask_again(self, flushes: list[Future[CheckpointName | None]]) -> None:
        if flushes:
            with self._lock:
                self._flushes = flushes + self._flushes
            self._wake.set()


def _same(snapshot: Snapshot, manifest: Manifest) -> bool:
    """Answer whether the folder holds what *manifest* says; restored files have the times of the original ones."""
    return [(file.path, file.bytes, file.mtime_ns) for file in snapshot] == [
        (file.path, file.bytes, file.mtime_ns) for file in manifest.files
    ]


def _cancel(flushes: list[Future[CheckpointName | None]]) -> None:
    for flush in flushes:
        flush.cancel()
