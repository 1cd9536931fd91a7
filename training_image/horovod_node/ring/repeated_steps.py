"""Steps that a run lost and did again, in all its attempts."""

from __future__ import annotations

from horovod_node.rank_process.progress import Progress


class RepeatedSteps:
    """
    Counts the steps that were lost, by rings that broke and by attempts that ended.

    Steps lost in a ring reset are known only if the script uses `training.fit`; the leader itself counts those that
    were lost with an attempt.

    Args:
        before: Steps that earlier attempts lost, those after the restored checkpoint among them. Default: 0.
        restored: Whether the script begins with a checkpoint, which holds the script's own count until then.
    """

    def __init__(self, before: int = 0, *, restored: bool = False) -> None:
        self._before = before
        self._told_at_first = None if restored else 0
        self._told = 0
        self.known = before > 0
        """Whether anybody could tell."""

    @property
    def count(self) -> int:
        """Steps lost so far."""
        return self._before + self._told

    def see(self, progress: Progress) -> None:
        """Take note of how far rank 0 is."""
        if progress.committed_step is None:
            return
        self.known = True
        if self._told_at_first is None:
            self._told_at_first = progress.repeated_steps
        # A rank whose process is a new one knows nothing until the others tell it.
        self._told = max(self._told, progress.repeated_steps - self._told_at_first)
