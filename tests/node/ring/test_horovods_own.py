"""Horovod's own examples and tests, as users' scripts: what they do under `horovodrun`, they do in our rings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from horovod_node import contract
from support.node.interpreters import torch_python
from support.node.plain_horovod import horovods_own, run_on_two_ranks
from support.node.rings import SETTINGS, Ring

pytestmark = [pytest.mark.ring, pytest.mark.slow, pytest.mark.timeout(3600)]

PATIENT = replace(SETTINGS, first_step_seconds=1800, stall_seconds=1800)
"""Most tests train nothing."""
SUITE_SECONDS = 3000.0
SMALL = {"model": "MobileNetV2", "batch-size": 2, "num-iters": 2, "num-batches-per-iter": 2}
WARM = {"num-warmup-batches": 1}
EXAMPLES = {
    "examples/tensorflow2/tensorflow2_synthetic_benchmark.py": SMALL | WARM,
    "examples/tensorflow2/tensorflow2_keras_synthetic_benchmark.py": SMALL,
    "examples/elastic/tensorflow2/tensorflow2_synthetic_benchmark_elastic.py": SMALL | WARM,
}
"""
Of TensorFlow's. Not run: those that train MNIST, whose data Keras fetches and checks against a digest; the ImageNet
ones, which want its files; those with the data service, Spark, Ray and MXNet, which nothing here has.
"""
TORCH_EXAMPLES = {"examples/adasum/adasum_small_model.py": {"op": "Average"}}
"""Of PyTorch's. Not run: the others, which take models or data from torchvision, which our image does not have."""
SUITES = ("test_tensorflow.py", "test_tensorflow2_keras.py", "test_tensorflow_process_sets.py")
TORCH_SUITES = ("test_torch.py",)
NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a source folder of Horovod's own scripts."""
    folder = tmp_path / "source"
    folder.mkdir()
    return horovods_own(folder)


def bare(script: Path, arguments: Mapping[str, object], *, python: str) -> subprocess.CompletedProcess[str]:
    """Run a script under `horovodrun`."""
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    return run_on_two_ranks(script, *words, environment=environment, python=python)


def in_our_ring(
    ring: Ring, source: Path, script: str, arguments: Mapping[str, object], *, elastic: bool, python: str
) -> str:
    """Run a script in a ring of ours, to its good end, and give what it printed."""
    names = {name.replace("_", "-") for name in arguments}
    assert names == set(arguments), "hyperparameters have dashes"
    ring.submit(
        scripts=source, entry_point=script, settings=PATIENT, min_gpus=1 if elastic else None, **dict(arguments)
    )
    ring.start(nodes=2, python=python)
    ring.begin()
    trained = ring.answer(contract.TASK_TRAIN, seconds=SUITE_SECONDS)
    assert "error" not in trained, f"{trained}\n{ring.log()}"
    return ring.log()


@pytest.mark.parametrize(
    ("script", "elastic"),
    [
        *((script, False) for script in (*EXAMPLES, *TORCH_EXAMPLES)),
        # The others could not go on with another ring, and are refused one.
        *((script, True) for script in EXAMPLES if "/elastic/" in script),
    ],
)
def test_examples_say_what_they_say_under_horovodrun(ring: Ring, source: Path, script: str, elastic: bool) -> None:
    """Horovod's examples end well, and print the same lines but for their numbers."""
    # GIVEN
    python = torch_python() if script in TORCH_EXAMPLES else sys.executable
    arguments = (EXAMPLES | TORCH_EXAMPLES)[script]
    expected = bare(source / script, arguments, python=python)
    assert expected.returncode == 0, expected.stderr
    mark = "[0]<stdout>:"
    lines = [NUMBER.sub("#", line.removeprefix(mark)) for line in expected.stdout.splitlines() if line.startswith(mark)]
    assert lines
    # WHEN
    printed = in_our_ring(ring, source, script, arguments, elastic=elastic, python=python)
    # THEN
    told = NUMBER.sub("#", printed)
    assert [line for line in lines if line.strip() and line not in told] == []


@pytest.mark.parametrize("suite", [*SUITES, *TORCH_SUITES])
def test_horovods_tests_end_as_under_horovodrun(ring: Ring, source: Path, tmp_path: Path, suite: str) -> None:
    """Each of Horovod's parallel tests has the outcome, on each rank, that it has under `horovodrun`."""
    # GIVEN
    python = torch_python() if suite in TORCH_SUITES else sys.executable
    ways = [tmp_path / "horovodrun", tmp_path / "ring"]
    for way in ways:
        way.mkdir()
    expected = bare(source / "suite.py", {"file": suite, "outcomes": ways[0]}, python=python)
    assert expected.returncode == 0, expected.stdout + expected.stderr
    # WHEN
    in_our_ring(ring, source, "suite.py", {"file": suite, "outcomes": str(ways[1])}, elastic=False, python=python)
    # THEN
    outcomes = [[json.loads((way / f"{rank}.json").read_text()) for rank in range(2)] for way in ways]
    assert outcomes[1] == outcomes[0]
    assert "passed" in outcomes[0][0].values()
