"""The training helper with GANs, several models, adapted layers, and loops of one's own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.training.test_training import environment
from support.node.horovodrun import run_on_two_ranks
from support.node.rings import SCRIPTS

pytestmark = pytest.mark.ring

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


def prove_unusual_trainings(*, python: str = sys.executable, **more: str) -> None:
    """Run all of them on two ranks, and look at what they say of themselves."""
    ended = run_on_two_ranks(SCRIPTS / "train_unusually.py", python=python, environment=environment(python, **more))
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
        env=environment(python, HOROVOD_ELASTIC="1", **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = re.findall(r"^result (\w+) (.*)$", ended.stdout, re.MULTILINE)
    sentences = {name: json.loads(told)[1] for name, told in found}
    assert {name: re.sub(r"^\w+Error: ", "", sentence) for name, sentence in sentences.items()} == REFUSED


def train(folder: Path, *arguments: str, python: str = sys.executable, **more: str) -> dict[str, Any] | int:
    """Train several models to their end, and give what the script printed, or its exit code."""
    (folder / "model").mkdir(exist_ok=True, parents=True)
    ended = subprocess.run(
        [python, str(SCRIPTS / "resume_several.py"), *arguments],
        env=environment(python, SM_MODEL_DIR=str(folder / "model"), **more),
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
    undisturbed = train(folder / "undisturbed", python=python, **more)
    assert isinstance(undisturbed, dict)
    assert undisturbed["taken"] == STEPS
    assert train(folder, "--die-at-step", "48", python=python, **more) == -signal.SIGKILL
    # WHEN it starts again, and its layers would be adapted to other words
    found = train(folder, "--words", "wxyz", python=python, **more)
    # THEN the first model is the trained one, words included, and the GAN's optimizers go on where they were
    assert isinstance(found, dict)
    assert found["taken"] in (STEPS - 45, STEPS - 40)
    for name in ("judged", "weights"):
        np.testing.assert_allclose(found[name], undisturbed[name], atol=1e-6, err_msg=name)
    for mine, theirs in zip(found["optimizers"], undisturbed["optimizers"], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.slow
def test_unusual_trainings_average() -> None:
    """Ranks that begin apart end with equal weights, whatever trains them, and whatever their layers had learned."""
    prove_unusual_trainings()


def test_fails_with_one_sentence_when_ranks_would_train_alone() -> None:
    """It names what to change."""
    prove_refusals()


@pytest.mark.slow
def test_killed_training_of_several_models_goes_on(tmp_path: Path) -> None:
    """A model whose training was over before is not found untrained, and both optimizers of a GAN come back."""
    prove_resume_of_several(tmp_path)
