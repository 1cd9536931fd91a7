"""
Keras 3, for real: that Horovod averages nothing under it, that no such training gets through, and that the training
helper does average, with every TensorFlow from 2.18 on.

The interpreter with TensorFlow 2.18 and Keras 3 is the one that HOROVOD_KERAS3_PYTHON names; those without a name are
made in the cache, which takes some ten minutes each, once.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest

from horovod_node import contract
from horovod_node.rank_process.preflight import REASON
from support.node.interpreters import NEWER, OTHERS, keras_3_python
from support.node.plain_horovod import run_on_two_ranks
from support.node.rings import SCRIPTS, Ring
from support.node.training_proofs import (
    KERAS_2_CASES,
    KERAS_3_CASES,
    HelpedRing,
    assert_callbacks_saw_one_training,
    prove_averaging,
    prove_refusals,
    prove_resume_of_several,
    prove_unusual_trainings,
)

pytestmark = [pytest.mark.slow, pytest.mark.ring, pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def keras_3() -> str:
    """Give the Python of the image's `newer` profile, without its switch to Keras 2."""
    return keras_3_python(NEWER)


def test_horovod_averages_nothing_under_keras_3(keras_3: str) -> None:
    """Without the agent: no error, no warning, and other weights on each rank. This is why there is a preflight."""
    # WHEN
    ended = run_on_two_ranks(
        SCRIPTS / "average_nothing.py",
        python=keras_3,
        environment={
            "PATH": f"{Path(keras_3).parent}:{os.environ['PATH']}",
            "CUDA_VISIBLE_DEVICES": "-1",
            "OMP_NUM_THREADS": "1",
        },
    )
    # THEN
    assert ended.returncode == 0, ended.stderr
    differences = [float(text) for text in re.findall(r"difference (\S+)", ended.stdout)]
    assert len(differences) == 2
    assert min(differences) > 0.001


def test_script_is_refused_before_the_ring_forms(ring: Ring, keras_3: str) -> None:
    """What the script's text gives away costs no training at all."""
    # GIVEN
    ring.submit(entry_point="train_digits.py")
    # WHEN
    ring.start(nodes=2, python=keras_3)
    refused = ring.asked(contract.TASK_RING)
    # THEN
    assert refused["error"] == contract.ERROR_PREFLIGHT
    assert re.match(rf"train_digits\.py was not started\. Line \d+: {re.escape(REASON)}", refused["cause"])
    assert ring.agents[0].exit_code() == contract.EXIT_PREFLIGHT


def test_optimizer_is_refused_on_every_rank(ring: Ring, keras_3: str) -> None:
    """What the text does not give away, the optimizer does, before the first step."""
    # GIVEN
    ring.submit(entry_point="average_nothing.py")
    # WHEN
    ring.start(nodes=2, python=keras_3)
    ring.asked(contract.TASK_RING)
    refused = ring.asked(contract.TASK_TRAIN)
    # THEN
    assert refused["error"] == contract.ERROR_PREFLIGHT
    assert f"was not allowed to train: horovod_node.rank_process.preflight.PreflightError: {REASON}" in refused["cause"]
    assert 'average_nothing.py", line' in refused["cause"]
    assert "difference" not in ring.log()
    assert ring.agents[0].exit_code() == contract.EXIT_PREFLIGHT


def test_script_trains_equal_weights_with_tf_keras(ring: Ring, keras_3: str) -> None:
    """With TensorFlow's switch to Keras 2 the same script is welcome, and the ranks agree exactly."""
    # GIVEN
    ring.submit(entry_point="train_digits.py", steps=20)
    # WHEN
    ring.start(nodes=2, python=keras_3, TF_USE_LEGACY_KERAS="1")
    ring.asked(contract.TASK_RING)
    trained = ring.asked(contract.TASK_TRAIN)
    saved = ring.asked(contract.TASK_SAVE)
    # THEN
    assert (trained["ranks"], trained["steps"]) == (2, 20)
    archive = ring.aws.client("s3").get_object(Bucket=ring.aws.model_bucket, Key=saved["key"])
    with tarfile.open(fileobj=io.BytesIO(archive["Body"].read()), mode="r:gz") as tar:
        proof = json.load(tar.extractfile("proof.json") or io.StringIO())
    assert (proof["ranks"], proof["difference"]) == (2, 0.0)


@pytest.mark.parametrize("tensorflow", [NEWER, *OTHERS])
def test_helper_averages_gradients_under_keras_3(tmp_path: Path, tensorflow: str) -> None:
    """Where Horovod's own optimizer does not: the ranks' weights are equal, and those that averages lead to."""
    prove_averaging(tmp_path, KERAS_3_CASES, python=keras_3_python(tensorflow))


def test_helper_averages_gradients_with_tf_keras(tmp_path: Path, keras_3: str) -> None:
    """Keras 2 lives on in a package of its own; the helper does not mind."""
    prove_averaging(tmp_path, KERAS_2_CASES, python=keras_3, TF_USE_LEGACY_KERAS="1")


@pytest.mark.parametrize("tensorflow", [NEWER, *OTHERS])
def test_unusual_trainings_average_under_keras_3(tensorflow: str) -> None:
    """GANs, adapted layers, several models and loops of one's own, with the same helper."""
    prove_unusual_trainings(python=keras_3_python(tensorflow))


def test_killed_training_of_several_models_goes_on_under_keras_3(tmp_path: Path, keras_3: str) -> None:
    """Optimizers and vocabularies are kept elsewhere in Keras 3."""
    prove_resume_of_several(tmp_path, python=keras_3)


def test_fails_with_one_sentence_when_ranks_would_train_alone_under_keras_3(keras_3: str) -> None:
    """As under Keras 2."""
    prove_refusals(python=keras_3)


def test_elastic_ring_loses_a_node_under_keras_3(ring: Ring, keras_3: str) -> None:
    """The helper's state is Keras 3's as well: two ranks go on where three were, with equal weights."""
    HelpedRing(ring=ring, script="train_helped.py", python=keras_3).assert_killed_node_costs_at_most_one_commit()
    assert_callbacks_saw_one_training(ring)
