"""The ring that Horovod forms for either framework, or one process alone where there is no Horovod."""

from __future__ import annotations

import os
from typing import Any


class HorovodRing:
    """
    What a framework's Horovod module says of the ring.

    Args:
        hvd: `horovod.tensorflow` or `horovod.torch`; `None` where it is not installed.
    """

    def __init__(self, hvd: Any) -> None:
        self._hvd = hvd

    def started(self) -> bool:
        """Whether `start` was called, or the script called `hvd.init()` itself."""
        return self._hvd is None or bool(self._hvd.is_initialized())

    def rank(self) -> int:
        """Give this process's number in the ring; rank 0 writes files and prints."""
        return 0 if self._hvd is None else int(self._hvd.rank())

    def local_rank(self) -> int:
        """Give this process's number on its node."""
        return 0 if self._hvd is None else int(self._hvd.local_rank())

    def size(self) -> int:
        """Give the number of ranks, which may be another one after a node was lost or came."""
        return 1 if self._hvd is None else int(self._hvd.size())

    def is_elastic(self) -> bool:
        """Whether the ring may change while this process lives."""
        return self._hvd is not None and os.environ.get("HOROVOD_ELASTIC") == "1"

    def is_ring(self) -> bool:
        """Whether there is, or may come to be, another rank."""
        return self.is_elastic() or self.size() > 1

    def form_anew(self) -> None:
        """Leave the ring that was, and join the one that is; a rank that has no place in it ends here."""
        self._hvd.shutdown()
        self._hvd.init()
