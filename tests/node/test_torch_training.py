"""The training helper for PyTorch: averaging, data, checkpoints, and rings of real agents that lose and gain nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from horovod_node.progress import Progress
from node.horovodrun import run_on_two_ranks
from node.rings import SCRIPTS, Agent, Ring, wait_for
from node.test_torch import digits, environment, python

__all__ = ["digits", "python"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.ring]

COMMIT_EVERY = 5
EXAMPLES, BATCH = 1437, 16
"""Digits that are not for the test, and what a rank takes of them in a step."""
EPOCH_OF_TWO = -(-(EXAMPLES // 2) // BATCH)


def begin(
    ring: Ring, *, python: str, gpus: int, nodes: int, min_gpus: int | None = None, **hyperparameters: object
) -> None:
    """Submit the script, form the ring and begin the training."""
    ring.submit(gpus=gpus, min_gpus=min_gpus, entry_point="torch_helped.py", **hyperparameters)
    ring.start(nodes=nodes, python=python)
    ring.begin()


def progress(agent: Agent, rank: int = 0) -> Progress:
    """Read what a rank reported last."""
    return Progress.read(agent.ml_root / "ranks" / f"rank-{rank}.progress")


def test_gradients_are_averaged(python: str) -> None:
    """Ranks with other data end with equal weights, and with those that all ranks' data lead to on one."""
    # WHEN
    ended = run_on_two_ranks(SCRIPTS / "torch_average.py", python=python, environment=environment(python))
    # THEN
    assert ended.returncode == 0, ended.stderr
    ranks = [json.loads(line) for line in re.findall(r"result \d (.*)$", ended.stdout, re.MULTILINE)]
    assert len(ranks) == 2
    cases = {"sgd", "adam", "unscaled", "function", "schedule", "clipped", "accumulated"}
    for rank in ranks:
        assert {name: found["apart"] for name, found in rank.items()} == dict.fromkeys(cases, 0.0)
        for name, found in rank.items():
            assert found["from_expected"] < 1e-5, name
            assert found["moved"] > 0.005, name
            # The groups keep one GPU's rate, which the schedule alone has changed.
            assert found["rate"] == pytest.approx(0.01 * 0.9**8 if name == "schedule" else 0.01), name


def test_epoch_is_divided_whatever_happens_to_the_ring(python: str) -> None:
    """Each example once, by three ranks and then by two, in an order of its own; what cannot be divided is refused."""
    # WHEN
    ended = subprocess.run(
        [python, str(SCRIPTS / "torch_divide.py")],
        env=environment(python),
        capture_output=True,
        text=True,
        check=False,
    )
    # THEN
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    examples = [number for part in ("first", "rest") for rank in found[part] for batch in rank for number in batch]
    assert len(examples) == len(set(examples)) == 22  # of 23: one is less than two ranks can share
    assert (found["same"], found["other"]) == (True, True)
    assert found["in order"] == [[[0, 2, 4, 6], [8, 10, 12, 14]], [[1, 3, 5, 7], [9, 11, 13, 15]]]
    assert found["own"] == [[[0], [1], [2]], [[10], [11], [12]]]
    assert found["own rest"] == [[[2]], [[12]]]
    # AND an evaluation is no step, and yet an advance
    assert found["evaluated"] == [23, 0, 3]
    assert [words.partition(",")[0] for words in found["refused"]] == [
        "TypeError: a DataLoader of an IterableDataset",
        "TypeError: a DataLoader with the sampler WeightedRandomSampler cannot be divided: leave the sampler out",
        "TypeError: 'data' must be a DataLoader",
        "ValueError: 'steps_per_epoch' must be given: how many batches the function's data have is not known",
    ]


def test_static_ring_divides_an_epoch(ring: Ring, python: str) -> None:
    """Two ranks need half the steps, end with the same weights, and say how far they are."""
    # WHEN
    begin(ring, python=python, gpus=2, nodes=2, epochs=4)
    trained = ring.end()
    # THEN
    assert trained["steps"] == 4 * EPOCH_OF_TWO
    found = ring.facts()
    assert (found["size"], found["difference"], found["steps"]) == (2, 0.0, 4 * EPOCH_OF_TWO)
    assert found["accuracy"] > 0.9
    # AND the groups' learning rate is the script's, whatever the ring's size
    assert found["learning_rate"] == pytest.approx(0.002 * 0.999 ** (4 * EPOCH_OF_TWO))
    # AND the epochs' losses are the same on both
    losses = [[entry["loss"] for entry in agent.journal("epoch")] for agent in ring.agents]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]
    # AND progress is told
    report = progress(ring.agents[0])
    assert (report.epoch, report.epochs, report.step, report.steps) == (4, 4, 4 * EPOCH_OF_TWO, 4 * EPOCH_OF_TWO)
    assert (report.repeated_steps, report.advances >= 4 * EPOCH_OF_TWO) == (0, True)
    assert report.samples_per_second is not None
    assert report.loss is not None


def test_killed_node_costs_at_most_one_commit(ring: Ring, python: str) -> None:
    """One of three nodes dies in mid-epoch: the epoch goes on with what is left of it, divided by two."""
    # GIVEN a third node that stands still in mid-epoch, so that it is there when it dies, and the others wait for it
    (ring.folder / "node-3").mkdir()
    (ring.folder / "node-3" / "stands-still-at").write_text("12")
    begin(ring, python=python, gpus=3, min_gpus=2, nodes=3, epochs=4, commit_every=COMMIT_EVERY)
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
    assert [entry["number"] for entry in ring.agents[0].journal("epoch")] == [0, 1, 2, 3]


def test_node_that_comes_later_is_taken_in_without_a_loss(ring: Ring, python: str) -> None:
    """A third node finds the others in mid-training, takes over their state, and no step is done twice."""
    # GIVEN a ring of two that commits by the clock
    begin(ring, python=python, gpus=3, min_gpus=2, nodes=2, epochs=8)
    ring.agents[0].until_step(5)
    # WHEN
    ring.start(nodes=1, python=python)
    # THEN
    ring.end()
    taken = ring.agents[0].steps()
    assert len(taken) == len(set(taken))
    assert {entry["size"] for entry in ring.agents[0].journal("step")} == {2, 3}
    assert min(ring.agents[2].steps()) > 5
    found = ring.facts()
    assert (found["size"], found["difference"]) == (3, 0.0)


def test_leader_that_is_told_to_stop_leaves_a_checkpoint(ring: Ring, python: str) -> None:
    """At the cost ceiling rank 0 hears SIGTERM first: it writes where it is, without asking the others."""
    # GIVEN
    begin(ring, python=python, gpus=2, nodes=2, epochs=50)
    ring.agents[0].until_step(10)
    # WHEN
    os.kill(ring.agents[0].rank(), signal.SIGTERM)
    # THEN
    checkpoints = ring.agents[0].ml_root / "checkpoints"
    wait_for("a checkpoint", lambda: any(path.name.isdecimal() for path in checkpoints.iterdir()))
    (checkpoint,) = [path for path in checkpoints.iterdir() if path.name.isdecimal()]
    assert int(checkpoint.name) == max(ring.agents[0].steps()) >= 10
    assert sorted(path.name for path in checkpoint.iterdir()) == ["checkpoint.json", "state.pt"]


def train(python: str, digits: Path, folder: Path, *arguments: str) -> dict[str, Any] | int:
    """Run the script alone to its end, and give what it left, or its exit code."""
    (folder / "model").mkdir(exist_ok=True)
    ended = subprocess.run(
        [python, str(SCRIPTS / "torch_helped.py"), "--step-seconds", "0", "--checkpoint-every", "5", *arguments],
        env=environment(python, SM_CHANNEL_TRAIN=str(digits), SM_MODEL_DIR=str(folder / "model")),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        print(ended.stderr)
        return ended.returncode
    found: dict[str, Any] = json.loads((folder / "model" / "facts.json").read_text())
    return found


def test_killed_training_goes_on_from_its_checkpoint(python: str, digits: Path, tmp_path: Path) -> None:
    """In mid-epoch, with optimizer, schedule and the script's own counter: each step that is not done again is done."""
    # GIVEN
    assert train(python, digits, tmp_path, "--epochs", "2", "--die-at-step", "123") == -signal.SIGKILL
    checkpoints = tmp_path / "checkpoints"
    newest = max(path.name for path in checkpoints.iterdir() if path.name.isdecimal())
    assert int(newest) in (115, 120)
    # WHEN
    found = train(python, digits, tmp_path, "--epochs", "2")
    # THEN
    assert isinstance(found, dict)
    assert found["steps"] == 2 * -(-EXAMPLES // BATCH)
    assert found["learning_rate"] == pytest.approx(0.002 * 0.999 ** found["steps"])
    assert found["accuracy"] > 0.9
    # WHEN it is started once more
    again = train(python, digits, tmp_path, "--epochs", "2")
    # THEN nothing is left to do, and the weights are those that it ended with
    assert isinstance(again, dict)
    np.testing.assert_array_equal(again["weights"], found["weights"])


def test_torn_checkpoint_is_passed_over(python: str, digits: Path, tmp_path: Path) -> None:
    """A newest checkpoint that cannot be read gives way to the one before."""
    # GIVEN
    assert train(python, digits, tmp_path, "--epochs", "1", "--die-at-step", "44") == -signal.SIGKILL
    older, newest = sorted(path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    content = (newest / "state.pt").read_bytes()
    (newest / "state.pt").write_bytes(content[: len(content) // 2])
    # WHEN
    found = train(python, digits, tmp_path, "--epochs", "1")
    # THEN the steps after the older one were taken again
    assert isinstance(found, dict)
    assert found["steps"] == -(-EXAMPLES // BATCH)
    journals = [file.read_text().splitlines() for file in tmp_path.glob("journal-*.jsonl")]
    firsts = sorted(json.loads(lines[0])["step"] for lines in journals)
    assert firsts == [1, int(older.name) + 1]
