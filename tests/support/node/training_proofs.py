"""
What the training helpers promise, as proofs that several tests run: with every framework, Keras and TensorFlow.

`HelpedRing` is for rings of real agents; the functions run scripts without agents.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from horovod_node.rank_process.progress import Progress
from support.node.plain_horovod import cpu_environment, run_on_two_ranks
from support.node.rings import SCRIPTS, Agent, Ring, wait_for

COMMIT_EVERY = 5
EXAMPLES, BATCH = 1437, 16
"""Digits that are not for the test, and what a rank takes of them in a step."""
EPOCH_OF_TWO = -(-(EXAMPLES // 2) // BATCH)
"""Steps of an epoch that two ranks share."""


CASES = {
    "momentum",
    "adam",
    "sqrt",
    "schedule",
    "clipnorm",
    "global clipnorm",
    "weight decay",
    "moving average",
    "sparse",
    "loss scale",
    "infinity",
    "mixed precision",
}
KERAS_2_CASES, KERAS_3_CASES = CASES | {"legacy", "legacy sparse"}, CASES | {"accumulation"}

TRAININGS = {
    "gan",
    "eager loop",
    "function",
    "keras's fit",
    "compiled before",
    "adapted layers",
    "missed",
}
STEPS_OF_FIRST, STEPS = 20, 60
"""Of the first model in `resume_several.py`, and of both."""

REFUSED = {
    "not_distributed": (
        "the model's optimizer does not average gradients: give training.distributed(...) of it to compile()"
    ),
    "one_of_two": (
        "the model's 'generator_optimizer' does not average gradients: give training.distributed(...) of it to the "
        "model"
    ),
    "none_used": (
        "ByHand.train_step takes no step with an optimizer: gradients are averaged by the apply_gradients() of one "
        "from training.distributed(...)"
    ),
    "compiled_by_xla": (
        "XLA cannot compile Horovod's operations: say jit_compile=False to compile() or tf.function(), or train "
        "with training.fit(), which does"
    ),
    "several_devices": (
        "tf.distribute trains on 2 devices of this process, and Horovod on one of each: train without a strategy, and "
        "call training.start() first, which gives each rank a GPU of its own"
    ),
    "horovods_own": "'optimizer' is hvd.DistributedOptimizer's already: give training.distributed(...) the plain one",
    "twice": "the optimizer is distributed already",
}
"""Function of `refuse_combinations.py` to the sentence that it gets."""


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


def assert_callbacks_saw_one_training(ring: Ring) -> None:
    """Of four epochs, whatever happened to the ring."""
    assert len(ring.agents[0].journal("begin")) == len(ring.agents[0].journal("end")) == 1
    assert [entry["epoch"] for entry in ring.agents[0].journal("epoch")] == [0, 1, 2, 3]


def prove_averaging(folder: Path, cases: set[str], *, python: str = sys.executable, **more: str) -> None:
    """Run the proof on two ranks, and look at it."""
    (folder / "model").mkdir()
    ended = run_on_two_ranks(
        SCRIPTS / "average_gradients.py",
        python=python,
        environment=cpu_environment(python, SM_MODEL_DIR=str(folder / "model"), **more),
    )
    assert ended.returncode == 0, ended.stderr
    ranks = [json.loads(line) for line in re.findall(r"result \d (.*)$", ended.stdout, re.MULTILINE)]
    assert len(ranks) == 2
    assert set(ranks[0]) == cases
    # One rank began where the other did not.
    assert min(max(rank[name]["apart_at_first"] for rank in ranks) for name in cases) > 0.1
    for rank in ranks:
        assert {name: found["apart"] for name, found in rank.items()} == dict.fromkeys(cases, 0.0)
        for name, found in rank.items():
            # Weights moved by some hundredths; gradients in half precision are that much less exact.
            tolerance = 1e-3 if name == "mixed precision" else 1e-6
            assert found["from_expected"] < tolerance, name
            assert found["moved"] > 0.005, name
            assert found["rate"] <= 0.0500001, name
    # AND the model loads where nothing is known of rings
    loaded = subprocess.run(
        [
            *(python, "-c"),
            "import tensorflow as tf, sys; optimizer = tf.keras.models.load_model(sys.argv[1]).optimizer;"
            "rate = float(optimizer.get_config()['learning_rate']);"
            "print(type(optimizer).__name__, int(optimizer.iterations.numpy()), round(rate, 6))",
            str(folder / "model" / "model.keras"),
        ],
        env={**cpu_environment(python, **more), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.stdout.split() == ["Adam", "8", "0.01"], loaded.stderr


def prove_unusual_trainings(*, python: str = sys.executable, **more: str) -> None:
    """Run all of them on two ranks, and look at what they say of themselves."""
    ended = run_on_two_ranks(SCRIPTS / "train_unusually.py", python=python, environment=cpu_environment(python, **more))
    assert ended.returncode == 0, ended.stderr
    ranks = [json.loads(line) for line in re.findall(r"result \d (.*)$", ended.stdout, re.MULTILINE)]
    assert len(ranks) == 2
    for rank in ranks:
        assert {name: found["apart"] for name, found in rank.items()} == dict.fromkeys(TRAININGS, 0.0)
        assert min(found["apart_at_first"] for found in rank.values()) > 0.1
        # Both optimizers took every step, and hold the same on both ranks.
        assert (rank["gan"]["steps"], rank["gan"]["optimizers_apart"]) == ([8, 8], 0.0)
        assert min(rank[name]["moved"] for name in TRAININGS - {"missed", "adapted layers"}) > 0.005
        # Each optimizer got the mean of its own gradients, though both were on their way at once.
        assert rank["function"]["from_expected"] < 1e-5
        # What preprocesses rank 0's words and numbers does so everywhere.
        assert rank["adapted layers"]["moved"] < 0.1
        assert rank["missed"]["moved"] == 0.0


def prove_refusals(*, python: str = sys.executable, **more: str) -> None:
    """Try them, each in a ring of one that may grow."""
    ended = subprocess.run(
        [python, str(SCRIPTS / "refuse_combinations.py")],
        env=cpu_environment(python, HOROVOD_ELASTIC="1", **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = re.findall(r"^result (\w+) (.*)$", ended.stdout, re.MULTILINE)
    sentences = {name: json.loads(told)[1] for name, told in found}
    assert {name: re.sub(r"^\w+Error: ", "", sentence) for name, sentence in sentences.items()} == REFUSED


def train(
    script: str, folder: Path, *arguments: str, python: str = sys.executable, **more: str
) -> dict[str, Any] | int:
    """Run one of `SCRIPTS` alone to its end, and return what it printed, or its exit code."""
    (folder / "model").mkdir(exist_ok=True, parents=True)
    ended = subprocess.run(
        [python, str(SCRIPTS / script), *arguments],
        env=cpu_environment(
            python, SM_MODEL_DIR=str(folder / "model"), SM_CHECKPOINT_DIR=str(folder / "checkpoints"), **more
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        print(ended.stderr)
        return ended.returncode
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def prove_resume_of_several(folder: Path, *, python: str = sys.executable, **more: str) -> None:
    """Kill the training in its second model, start it again, and compare it with one that nobody disturbed."""
    # GIVEN
    undisturbed = train("resume_several.py", folder / "undisturbed", python=python, **more)
    assert isinstance(undisturbed, dict)
    assert undisturbed["taken"] == STEPS
    assert train("resume_several.py", folder, "--die-at-step", "48", python=python, **more) == -signal.SIGKILL
    # WHEN it starts again, and its layers would be adapted to other words
    found = train("resume_several.py", folder, "--words", "wxyz", python=python, **more)
    # THEN the first model is the trained one, words included, and the GAN's optimizers go on where they were
    assert isinstance(found, dict)
    assert found["taken"] in (STEPS - 45, STEPS - 40)
    for name in ("judged", "weights"):
        np.testing.assert_allclose(found[name], undisturbed[name], atol=1e-6, err_msg=name)
    for mine, theirs in zip(found["optimizers"], undisturbed["optimizers"], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
