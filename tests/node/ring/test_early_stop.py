"""The ends of a training before its script's own."""

from __future__ import annotations

from typing import Any

from horovod_node import contract
from horovod_node.ring.early_stop import hand_over


class Steps:
    """Ranks that take one step between two polls, and end with the third one."""

    def __init__(self) -> None:
        self.step = 10
        self.told = 0

    @property
    def running(self) -> bool:
        self.step += 1
        return self.step < 13

    def ask_to_stop(self) -> None:
        self.told += 1

    def kill(self) -> None:
        self.told += 1


def test_steps_of_ranks_that_are_stopping_count() -> None:
    """The node's step follows the ranks while they end: checkpoints that they still write are labelled with it."""
    # GIVEN
    ranks: Any = Steps()
    kept: list[int] = []
    # WHEN
    failed = hand_over("The leader was told to stop", training=ranks, keep=lambda *, step: kept.append(step))
    # THEN
    assert kept == [10, 11, 12]
    assert (failed.error, ranks.told) == (contract.ERROR_NODE_FAILED, 2)
