"""Uploads the script's TensorBoard files to S3 while it trains."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
"""Shortest time between two scans of the folder."""
_SHARE: Final = 4
"""
The pause after a scan is at least this many times as long as the scan with its uploads. A growing event file is
uploaded as a whole each time, which must not take most of the network's bandwidth.
"""
CLOSE_SECONDS: Final = 10.0
"""How long closing waits for the last scan."""


class TensorBoardMirror:
    """
    Uploads every new or changed file of a folder to S3, in its own thread; deleted files remain in S3.

    Errors are logged and retried at the next scan: they never stop the training.

    Args:
        s3: boto3 client.
        folder: The folder to upload.
        bucket: Target bucket.
        prefix: Prefix of the keys, ending with `/`.
        look_seconds: Shortest time between two scans. Default: `LOOK_SECONDS`.
    """

    def __init__(
        self, s3: S3Client, *, folder: Path, bucket: str, prefix: str, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._s3 = s3
        self._folder = folder
        self._bucket = bucket
        self._prefix = prefix
        self._look_seconds = look_seconds
        self._mirrored: dict[str, tuple[int, int]] = {}
        self._trouble = ""
        self._stopped = Event()
        self._wake = Event()
        self._thread = Thread(target=self._mirror, name="tensorboard-mirror", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Scan at once, in the background: the script has ended."""
        self._wake.set()

    def close(self, wait_seconds: float = CLOSE_SECONDS) -> None:
        """Stop after a last scan; wait at most *wait_seconds* for it."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(wait_seconds)

    def _mirror(self) -> None:
        last = False
        while not last:
            # Read before the scan: files that existed when `close` was called are never missed.
            last = self._stopped.is_set()
            self._wake.clear()
            began = time.monotonic()
            self._look()
            if not last and not self._stopped.is_set():
                self._wake.wait(max(self._look_seconds, _SHARE * (time.monotonic() - began)))

    def _look(self) -> None:
        trouble = ""
        for path in sorted(self._folder.rglob("*")):
            try:
                if path.is_symlink() or not path.is_file():
                    continue
                # Read before the upload: the next scan uploads what is appended meanwhile.
                facts = path.stat()
                name, state = path.relative_to(self._folder).as_posix(), (facts.st_size, facts.st_mtime_ns)
                if self._mirrored.get(name) == state:
                    continue
                self._s3.upload_file(str(path), self._bucket, self._prefix + name)
                self._mirrored[name] = state
            except Exception as error:  # no error may stop the training or the mirror
                trouble = str(error)
        if trouble and trouble != self._trouble:
            _log.warning("could not upload TensorBoard files to s3://%s/%s: %s", self._bucket, self._prefix, trouble)
        self._trouble = trouble
