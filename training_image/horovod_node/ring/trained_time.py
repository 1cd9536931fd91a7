"""What of a run's GPU time was training."""

from __future__ import annotations


class TrainedTime:
    """
    Adds up ranks times the seconds in which steps were taken.

    The time between two steps of one ring counts, whatever the script does in it: computing, averaging, validating.
    What comes before a ring's first step and after its last one does not: forming it, importing, compiling, waiting
    for lost ranks.

    Args:
        gpu_seconds: What the run's earlier attempts have trained. Default: 0.
    """

    def __init__(self, gpu_seconds: float = 0.0) -> None:
        self.gpu_seconds = gpu_seconds
        """The sum so far."""
        self._ring: int | None = None
        self._advances = 0
        self._at: float | None = None

    def see(self, *, ring: int, ranks: int, advances: int, now: float) -> None:
        """
        Take note of how far the training is; to be called often.

        Args:
            ring: Counts the rings that were formed.
            ranks: Of this ring.
            advances: Steps that one of its ranks was seen to take; begins anew with that rank's process.
            now: Seconds of a clock that nobody sets.
        """
        if ring != self._ring or advances < self._advances:
            # Not a step yet: what was seen last may be the ring's before.
            self._ring, self._advances, self._at = ring, advances, None
        elif advances > self._advances:
            if self._at is not None:
                self.gpu_seconds += ranks * (now - self._at)
            self._advances, self._at = advances, now
