"""Mirrors the checkpoint folder to S3 while the script trains."""

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
Seconds between two polls of the folder. A new state is uploaded when two polls in a row find it. The interval is longer
than a script pauses between the files of one checkpoint.
"""
RESTLESS_SECONDS = 60.0
"""
If the folder keeps changing for this long, it is polled more often, to find the short pauses of a script that saves
every few seconds. Not earlier: a script may also pause while it writes one large checkpoint.
"""
_RESTLESS_LOOK_SECONDS = 0.5
"""Seconds between those polls; much more than the resolution of modification times on any file system."""
_LONGEST_PAUSE = 16
"""Longest pause between retries of failed uploads, in poll intervals."""
STILL_SECONDS = 0.5
"""How long the folder must not change before a flush uploads it; a flush does not wait for the next poll."""
CLOSE_SECONDS = 2.0
"""How long `close` waits for the thread, which stops an upload before its next part."""


class CheckpointMirror:
    """
    Uploads every new state of a folder to S3 as a new checkpoint, in a background thread.

    Errors are logged, kept as `trouble`, and retried at the next poll. They do not stop the training.

    Args:
        s3: boto3 client.
        folder: The checkpoint folder.
        bucket: Bucket of the checkpoints.
        run_id: The run that writes them.
        attempt: The attempt of the run.
        keep: Number of the run's complete checkpoints that stay in S3.
        step: Returns the current training step. Default: it is unknown.
        look_seconds: Seconds between two polls. Default: `LOOK_SECONDS`.
        part_bytes: Larger files are uploaded in parts of this size, at least 5 MiB. Default: `PART_BYTES`.
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
        """Why the last upload failed, in a sentence; '' if it succeeded."""
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
        """S3 address of the run's checkpoints, for people."""
        return f"s3://{self._bucket}/{contract.checkpoint_prefix(self._run_id)}"

    @property
    def folder(self) -> Path:
        """The folder that is mirrored."""
        return self._folder

    def uri(self, name: CheckpointName) -> str:
        """Return the S3 address of the checkpoint *name*, for people."""
        return name.uri(self._bucket)

    def notice(self) -> None:
        """Mirror the folder's present state without a second poll: the script reports that it is complete."""
        self._whole.set()
        self._wake.set()

    def flush(self) -> Future[CheckpointName | None]:
        """
        Start to mirror the folder's present state, and return at once.

        An upload that is in progress is finished first. If the folder keeps changing, the flush waits until it stops.

        Returns:
            Completes when the present state is in S3. Its result is the run's newest checkpoint, or `None` if there
            never was one; its exception, the error of the upload. It is cancelled if the mirror is closed before.
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
        """Stop mirroring; a checkpoint that is being uploaded is not completed."""
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
            except Exception as error:  # no error may stop the training or the mirror
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
        """Upload the folder's state if it is new, and did not change since the last poll or is known to be complete."""
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
        """Upload the folder's state as soon as it stops changing."""
        while True:
            snapshot = look(self._folder, left_out=self._say_left_out)
            if self._is_mirrored(snapshot):
                return None
            if self._stopped.wait(STILL_SECONDS):
                raise StoppedError
            if look(self._folder) == snapshot:
                return self._upload(snapshot)

    def _is_mirrored(self, snapshot: Snapshot) -> bool:
        """Return whether there is nothing to upload. The first call asks S3, since the state may be a restored one."""
        if self._sequence is None:
            self._take_up()
            newest = self._newest_manifest()
            if newest is not None and _same(snapshot, newest):
                self._mirrored = snapshot
        return not snapshot or snapshot == self._mirrored

    def _take_up(self) -> None:
        """Continue the sequence of an earlier agent of this attempt."""
        found = list_checkpoints(self._s3, bucket=self._bucket, run_id=self._run_id)
        self.newest = next((checkpoint.name for checkpoint in found if checkpoint.complete), None)
        # Incomplete ones count, too: their objects must not become part of another checkpoint.
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
        except Exception as error:  # more checkpoints do no harm; the next upload prunes again
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
    """Return whether *snapshot* has the files of *manifest*; restored files keep their modification times."""
    return [(file.path, file.bytes, file.mtime_ns) for file in snapshot] == [
        (file.path, file.bytes, file.mtime_ns) for file in manifest.files
    ]


def _cancel(flushes: list[Future[CheckpointName | None]]) -> None:
    for flush in flushes:
        flush.cancel()
