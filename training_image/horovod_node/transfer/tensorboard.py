"""What the script writes for TensorBoard, brought to S3 while it trains."""

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
"""Between two looks at the folder."""
_SHARE: Final = 4
"""
Pauses are at least so many times as long as the look before: an event file only grows, and goes up as a whole each
time, which must never be most of what the network does.
"""
CLOSE_SECONDS: Final = 10.0
"""How long closing waits for the last look."""


class TensorBoardMirror:
    """
    Brings every new or changed file of a folder to S3, in a thread of its own; what is removed here stays there.

    Whatever goes wrong is logged and tried again at the next look: the training goes on.

    Args:
        s3: boto3 client.
        folder: What is mirrored.
        bucket: Where the files go.
        prefix: What their keys begin with, ending with `/`.
        look_seconds: Between two looks. Default: `LOOK_SECONDS`.
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
        """Look at once, in the background: the script has ended."""
        self._wake.set()

    def close(self, wait_seconds: float = CLOSE_SECONDS) -> None:
        """Look for the last time, for *wait_seconds* at most."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(wait_seconds)

    def _mirror(self) -> None:
        last = False
        while not last:
            # Before the look: what is written during the last one may be missed, what was there before may not.
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
                # Before the upload: what is appended meanwhile is for the next look.
                facts = path.stat()
                name, state = path.relative_to(self._folder).as_posix(), (facts.st_size, facts.st_mtime_ns)
                if self._mirrored.get(name) == state:
                    continue
                self._s3.upload_file(str(path), self._bucket, self._prefix + name)
                self._mirrored[name] = state
            except Exception as error:  # whatever it is: the training goes on, and so does the mirror
                trouble = str(error)
        if trouble and trouble != self._trouble:
            _log.warning("TensorBoard's files do not reach s3://%s/%s: %s", self._bucket, self._prefix, trouble)
        self._trouble = trouble
