"""Scripts that would train without averaging are not started."""

from __future__ import annotations

import pytest

from horovod_node.rank_process.preflight import REASON, KerasFacts, installed_keras, is_elastic, refusal

KERAS_3 = KerasFacts(tensorflow="2.18.1", keras="3.15.1", legacy=False)
SCRIPT = """
import tensorflow as tf
import horovod.tensorflow.keras as hvd

optimizer = hvd.DistributedOptimizer(tf.keras.optimizers.Adam())
"""


@pytest.mark.parametrize(
    ("facts", "is_keras_3"),
    [
        (KerasFacts(tensorflow="2.15.1", keras="2.15.0", legacy=False), False),
        (KerasFacts(tensorflow="2.15.1", keras="3.0.0", legacy=False), False),
        (KerasFacts(tensorflow="2.16.2", keras="3.15.1", legacy=False), True),
        (KerasFacts(tensorflow="2.18.1", keras="3.15.1", legacy=False), True),
        (KerasFacts(tensorflow="2.18.1", keras="3.15.1", legacy=True), False),
        (KerasFacts(tensorflow="2.21.0rc1", keras="3.16.0.dev2", legacy=False), True),
        (KerasFacts(tensorflow="3.0.0", keras="4.0.0", legacy=False), True),
        (KerasFacts(tensorflow="", keras="3.15.1", legacy=False), False),
        (KerasFacts(tensorflow="2.18.1", keras="", legacy=False), False),
    ],
)
def test_which_keras_it_is_follows_from_versions_and_switch(facts: KerasFacts, is_keras_3: bool) -> None:
    """TensorFlow 2.16 brought Keras 3; its own switch takes it away again."""
    assert facts.is_keras_3 is is_keras_3


def test_installed_versions_are_found_without_an_import() -> None:
    """This environment has TensorFlow 2.15 with Keras 2.15."""
    # WHEN
    facts = installed_keras({"TF_USE_LEGACY_KERAS": "True"})
    # THEN
    assert facts == KerasFacts(tensorflow="2.15.1", keras="2.15.0", legacy=True)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (SCRIPT, 5),
        ("import horovod.keras\nhorovod.keras.DistributedOptimizer(1)", 2),
        ("from horovod.tensorflow import keras as h\nh.DistributedOptimizer(1)", 2),
        ("from horovod.tensorflow.keras import DistributedOptimizer\nDistributedOptimizer(1)", 2),
        ("from horovod.keras import DistributedOptimizer as D\ndef main():\n    return D(1)", 3),
    ],
)
def test_fails_when_the_script_leaves_no_doubt(source: str, line: int) -> None:
    """However it is imported, a call of Horovod's optimizer under Keras 3 is refused with its line."""
    assert refusal(source, KERAS_3) == f"Line {line}: {REASON}"


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['TF_USE_LEGACY_KERAS'] = '1'\n" + SCRIPT,
        "import tf_keras\n" + SCRIPT,
        "import horovod.tensorflow as hvd\nhvd.init()\nhvd.allreduce(1)",
        "import horovod.tensorflow.keras as hvd\nhvd.init()\nmine.DistributedOptimizer(1)",
        "this is not Python",
    ],
    ids=["switch", "tf-keras", "plain-horovod", "own-optimizer", "no-python"],
)
def test_script_that_may_know_what_it_does_is_looked_at_later(source: str) -> None:
    """In doubt the optimizer itself decides, when the script hands it to Horovod."""
    assert refusal(source, KERAS_3) is None


def test_script_is_welcome_under_keras_2() -> None:
    """The image's own TensorFlow averages gradients."""
    assert refusal(SCRIPT, KerasFacts(tensorflow="2.15.1", keras="2.15.0", legacy=False)) is None


def test_script_that_uses_the_helper_is_welcome_under_keras_3() -> None:
    """Its optimizer averages gradients of every Keras."""
    source = "from horovod_node import training\ntraining.distributed(tf.keras.optimizers.Adam())"
    assert refusal(source, KERAS_3) is None


@pytest.mark.parametrize(
    ("source", "elastic"),
    [
        (SCRIPT, False),
        ("from horovod_node import training", True),
        ("import horovod_node.training as t", True),
        ("from horovod_node.training import fit", True),
        ("from horovod_node import steps", False),
        ("import horovod_node.training_data", False),
        ("@hvd.elastic.run\ndef train(state): ...", True),
        ("from my_loops import elastic_loop", True),
        ("def broken(:", True),
    ],
)
def test_script_shows_whether_it_recovers(source: str, elastic: bool) -> None:
    """The helper does, and Horovod's elastic does; a plain script would fail with the first lost node."""
    assert is_elastic(source) is elastic
