"""The training helper for PyTorch: averaging, data, checkpoints, and rings of real agents that lose and gain nodes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.node.plain_horovod import cpu_environment, run_on_two_ranks
from support.node.rings import SCRIPTS, Ring
from support.node.training_proofs import BATCH, EPOCH_OF_TWO, EXAMPLES, HelpedRing, progress

pytestmark = [pytest.mark.slow, pytest.mark.ring]


@pytest.fixture
def helped(ring: Ring, python: str) -> HelpedRing:
    """A ring that trains with the PyTorch helper."""
    return HelpedRing(ring=ring, script="torch_helped.py", python=python)


def test_gradients_are_averaged(python: str) -> None:
    """Ranks with other data end with equal weights, and with those that all ranks' data lead to on one."""
    # WHEN
    ended = run_on_two_ranks(SCRIPTS / "torch_average.py", python=python, environment=cpu_environment(python))
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
        env=cpu_environment(python),
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


def test_static_ring_divides_an_epoch(helped: HelpedRing) -> None:
    """Two ranks need half the steps, end with the same weights, and say how far they are."""
    # WHEN
    ring = helped.ring
    helped.begin(gpus=2, nodes=2, epochs=4)
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


def test_killed_node_costs_at_most_one_commit(helped: HelpedRing) -> None:
    """One of three nodes dies in mid-epoch: the epoch goes on, and each epoch ends once."""
    helped.assert_killed_node_costs_at_most_one_commit()
    assert [entry["number"] for entry in helped.ring.agents[0].journal("epoch")] == [0, 1, 2, 3]


def test_node_that_comes_later_is_taken_in_without_a_loss(helped: HelpedRing) -> None:
    """A third node finds the others in mid-training, takes over their state, and no step is done twice."""
    helped.assert_late_node_is_taken_in_without_a_loss()


def test_leader_that_is_told_to_stop_leaves_a_checkpoint(helped: HelpedRing) -> None:
    """At the cost ceiling rank 0 hears SIGTERM first: it writes where it is, without asking the others."""
    helped.assert_told_leader_leaves_a_checkpoint(["checkpoint.json", "state.pt"])


def train(python: str, digits: Path, folder: Path, *arguments: str) -> dict[str, Any] | int:
    """Run the script alone to its end, and give what it left, or its exit code."""
    (folder / "model").mkdir(exist_ok=True)
    ended = subprocess.run(
        [python, str(SCRIPTS / "torch_helped.py"), "--step-seconds", "0", "--checkpoint-every", "5", *arguments],
        env=cpu_environment(
            python,
            SM_CHANNEL_TRAIN=str(digits),
            SM_MODEL_DIR=str(folder / "model"),
            SM_CHECKPOINT_DIR=str(folder / "checkpoints"),
        ),
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
