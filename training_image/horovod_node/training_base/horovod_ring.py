"""Horovod's ring, for either framework. Without Horovod it is a ring of one process."""

from __future__ import annotations

import os
from typing import Any


class HorovodRing:
    """
    The ring of a framework's Horovod module.

    Args:
        hvd: `horovod.tensorflow` or `horovod.torch`; `None` if it is not installed.
    """

    def __init__(self, hvd: Any) -> None:
        self._hvd = hvd

    def started(self) -> bool:
        """Whether `start` was called, or the script called `hvd.init()` itself."""
        return self._hvd is None or bool(self._hvd.is_initialized())

    def rank(self) -> int:
        """Return this process's number in the ring; rank 0 writes files and prints."""
        return 0 if self._hvd is None else int(self._hvd.rank())

    def local_rank(self) -> int:
        """Return this process's number on its node."""
        return 0 if self._hvd is None else int(self._hvd.local_rank())

    def size(self) -> int:
        """Return the number of ranks, which changes when nodes join or leave."""
        return 1 if self._hvd is None else int(self._hvd.size())

    def is_elastic(self) -> bool:
        """Whether the ring may change while this process lives."""
        return self._hvd is not None and os.environ.get("HOROVOD_ELASTIC") == "1"

    def is_ring(self) -> bool:
        """Whether there are other ranks, or may be later."""
        return self.is_elastic() or self.size() > 1

    def form_anew(self) -> None:
        """Reset the ring: leave the old one, and join the new one. A rank without a slot in it ends here."""
        self._hvd.shutdown()
        self._hvd.init()
