"""What a ring that trains with a helper goes through, whichever framework its script uses."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from horovod_node.rank_process.progress import Progress
from support.node.rings import Agent, Ring, wait_for

COMMIT_EVERY = 5
EXAMPLES, BATCH = 1437, 16
"""Digits that are not for the test, and what a rank takes of them in a step."""
EPOCH_OF_TWO = -(-(EXAMPLES // 2) // BATCH)
"""Steps of an epoch that two ranks share."""


def progress(agent: Agent, rank: int = 0) -> Progress:
    """Read what a rank reported last."""
    return Progress.read(agent.ml_root / "ranks" / f"rank-{rank}.progress")


@dataclass(frozen=True, kw_only=True)
class HelpedRing:
    """
    A ring and the script that it trains.

    Args:
        ring: The ring.
        script: Name of the script, among `SCRIPTS`.
        python: Runs the agents. Default: this one.
        hyperparameters: Of all its trainings.
    """

    ring: Ring
    script: str
    python: str = sys.executable
    hyperparameters: Mapping[str, object] = field(default_factory=dict)

    def begin(self, *, gpus: int, nodes: int, min_gpus: int | None = None, **hyperparameters: object) -> None:
        """Submit the script, form the ring and begin the training."""
        self.ring.submit(
            gpus=gpus, min_gpus=min_gpus, entry_point=self.script, **self.hyperparameters, **hyperparameters
        )
        self.ring.start(nodes=nodes, python=self.python)
        self.ring.begin()

    def assert_killed_node_costs_at_most_one_commit(self) -> None:
        """One of three nodes dies in mid-epoch: the epoch goes on with what is left of it, divided by two."""
        ring = self.ring
        # GIVEN a third node that stands still in mid-epoch, so that it is there when it dies and the others wait
        (ring.folder / "node-3").mkdir()
        (ring.folder / "node-3" / "stands-still-at").write_text("12")
        self.begin(gpus=3, min_gpus=2, nodes=3, epochs=4, commit_every=COMMIT_EVERY)
        ring.agents[0].until_step(12)
        # WHEN
        ring.agents[2].kill()
        # THEN
        ring.end()
        taken = ring.agents[0].steps()
        repeated = len(taken) - len(set(taken))
        assert repeated <= COMMIT_EVERY
        assert progress(ring.agents[0]).repeated_steps == repeated
        found = ring.facts()
        assert (found["size"], found["difference"]) == (2, 0.0)
        assert found["accuracy"] > 0.9
        # AND the first epoch was gone through once, by three and then by two
        first = {entry["step"]: entry["size"] for entry in ring.agents[0].journal("step") if entry["epoch"] == 0}
        assert set(first.values()) == {2, 3}
        assert EXAMPLES - 3 * BATCH < sum(size * BATCH for size in first.values()) < EXAMPLES + 3 * BATCH

    def assert_late_node_is_taken_in_without_a_loss(self) -> None:
        """A third node finds the others in mid-training, takes over their state, and no step is done twice."""
        ring = self.ring
        # GIVEN a ring of two that commits by the clock
        self.begin(gpus=3, min_gpus=2, nodes=2, epochs=8)
        ring.agents[0].until_step(5)
        # WHEN
        ring.start(nodes=1, python=self.python)
        # THEN
        ring.end()
        taken = ring.agents[0].steps()
        assert len(taken) == len(set(taken))
        assert {entry["size"] for entry in ring.agents[0].journal("step")} == {2, 3}
        assert min(ring.agents[2].steps()) > 5
        found = ring.facts()
        assert (found["size"], found["difference"]) == (3, 0.0)
        assert found["accuracy"] > 0.9

    def assert_told_leader_leaves_a_checkpoint(self, files: Sequence[str]) -> None:
        """At the cost ceiling rank 0 hears SIGTERM first: it writes *files* of where it is, and asks no other."""
        # GIVEN
        self.begin(gpus=2, nodes=2, epochs=50)
        leader = self.ring.agents[0]
        leader.until_step(10)
        # WHEN
        os.kill(leader.rank(), signal.SIGTERM)
        # THEN
        checkpoints = leader.ml_root / "checkpoints"
        wait_for("a checkpoint", lambda: any(path.name.isdecimal() for path in checkpoints.iterdir()))
        (checkpoint,) = [path for path in checkpoints.iterdir() if path.name.isdecimal()]
        assert int(checkpoint.name) == max(leader.steps()) >= 10
        assert sorted(path.name for path in checkpoint.iterdir()) == list(files)
