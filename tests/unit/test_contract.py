"""The rules of a request, and the keys of the ledger and of S3."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cdk_horovod.asl.states import run_id
from horovod_local.corrections.step_functions.jsonata import evaluate
from horovod_node import __version__, contract
from support.asl import by_reference
from support.synthesis import REPOSITORY

FLEET = contract.FleetSize(max_gpus=32, gpu_step=4)
MAX_RUNTIME_SECONDS = 86_400
MAX_COST_USD = 500

S3_URI = r"\As3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^\n]+\Z"
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["source", "entry_point", "gpus"],
    "properties": {
        "source": {"type": "string", "pattern": S3_URI},
        "entry_point": {
            "type": "string",
            "pattern": r"\A[^/\n][^\n]*\.py\Z",
            "not": {"pattern": r"(\A|/)\.\./"},
        },
        "gpus": {"type": "integer", "minimum": 1, "maximum": FLEET.max_gpus, "multipleOf": FLEET.gpu_step},
        "data": {
            "type": "object",
            "propertyNames": {"pattern": r"\A[A-Za-z0-9_.-]{1,64}\Z"},
            "additionalProperties": {"type": "string", "pattern": S3_URI},
        },
        "hyperparameters": {"type": "object", "propertyNames": {"pattern": "^[^=]+$"}},
        "min_gpus": {"type": "integer", "minimum": 1},
        "max_restarts": {"type": "integer", "minimum": 0, "maximum": 20},
        "resume_from": {"type": "string", "pattern": r"\A[A-Za-z0-9_-]{1,80}\Z"},
        "model": {"enum": ["required", "optional"]},
        "max_runtime_seconds": {"type": "integer", "minimum": 1, "maximum": MAX_RUNTIME_SECONDS},
        "max_cost_usd": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_COST_USD},
        "on_demand_prices": {
            "type": "object",
            "propertyNames": {"pattern": r"\A(ml\.)?[a-z0-9-]{1,32}\.[a-z0-9-]{1,32}\Z"},
            "additionalProperties": {"type": "number", "minimum": 0.001, "maximum": 10_000},
        },
    },
}
"""The same rules in another language, written from the documentation: what the sentences must agree with."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
s3_uris = st.sampled_from(
    [
        "s3://bucket/key",
        "s3://my.data-bucket/a/b c/ü.tar.gz",
        "s3://bucket/key\n",
        "s3://bucket/",
        "s3://ab/key",
        "s3://-bucket/key",
        "s3://Bucket/key",
        "http://bucket/key",
        "/data/train",
    ]
)
field_values = {
    "source": s3_uris,
    "entry_point": st.sampled_from(
        [
            "train.py",
            "src/train.py",
            "./train.py",
            "train.py\n",
            "train.sh",
            ".py",
            "/train.py",
            "../train.py",
            "a..b.py",
            "a/../b.py",
            "t r.py",
            "jobs 2/größe.py",
        ]
    ),
    "gpus": st.integers(-4, 40) | st.sampled_from([4.0, 4.5, True, 1e308, float("nan"), float("inf"), -float("inf")]),
    "data": st.dictionaries(
        st.sampled_from(["train", "a.b-c_d", "", "two words", "train\n", "ü", "c" * 64, "c" * 65]),
        s3_uris | json_values,
        max_size=2,
    ),
    "hyperparameters": st.dictionaries(st.text(max_size=5), json_values, max_size=2),
    "min_gpus": st.integers(-1, 40) | st.sampled_from([4.0, 4.5, True, 1e308, float("nan")]),
    "max_restarts": st.integers(-1, 101) | st.floats(),
    "model": st.sampled_from(["required", "optional", "none", "optional\n", ""]),
    "resume_from": st.sampled_from(["digits-1", "a_B-9", "", "a b", "../run", "run\n", "r" * 80, "r" * 81]),
    "max_runtime_seconds": st.integers(-1, 10)
    | st.integers(MAX_RUNTIME_SECONDS - 1, MAX_RUNTIME_SECONDS + 1)
    | st.floats(),
    "max_cost_usd": st.integers(-1, MAX_COST_USD + 1) | st.floats(-1, MAX_COST_USD + 1) | st.floats(),
    "on_demand_prices": st.dictionaries(
        st.sampled_from(["g5.xlarge", "u7i-12tb.224xlarge", "g5", "G5.xlarge", "g5.xlarge\n", f"{'x' * 33}.large", ""]),
        st.sampled_from([0, 0.001, 10_000, 10_001, True]) | st.floats() | json_values,
        max_size=2,
    ),
}
changes = st.fixed_dictionaries(
    {}, optional={name: values | json_values for name, values in field_values.items()} | {"gpu": json_values}
)
one_change = st.one_of([st.fixed_dictionaries({name: values}) for name, values in field_values.items()])


def problems(request: Any) -> list[str]:
    """Check *request* against the fleet of this file."""
    return contract.check_request(
        request, fleets=[FLEET], max_runtime_seconds=MAX_RUNTIME_SECONDS, max_cost_usd=MAX_COST_USD
    )


def a_request(**changes: Any) -> dict[str, Any]:
    """Build a request that uses every field, with *changes*."""
    return {
        "source": "s3://data/source/abc/source.tar.gz",
        "entry_point": "train.py",
        "gpus": 16,
        "data": {"train": "s3://data/digits/"},
        "hyperparameters": {"epochs": 3, "learning-rate": 0.1, "layers": [1, 2]},
        "min_gpus": 1,
        "max_restarts": 2,
        "resume_from": "digits-20260301",
        "max_runtime_seconds": 3600,
        "max_cost_usd": 12.5,
        "on_demand_prices": {"g5.xlarge": 1.006},
    } | changes


def test_accepts_a_request_with_every_field() -> None:
    """Nothing is wrong with a request that uses every field."""
    assert problems(a_request()) == []


def test_accepts_the_required_fields_alone() -> None:
    """A request may leave out every optional field."""
    # GIVEN
    required = [field.name for field in contract.REQUEST_FIELDS if field.required]
    request = {name: value for name, value in a_request().items() if name in required}

    # THEN
    assert problems(request) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": 4},
        {"gpus": 32},
        {"gpus": 16.0},
        {"min_gpus": 1},
        {"min_gpus": 16.0},
        {"max_restarts": 0},
        {"max_restarts": 20},
        {"resume_from": "r" * 80},
        {"max_runtime_seconds": 1},
        {"max_runtime_seconds": MAX_RUNTIME_SECONDS},
        {"max_cost_usd": MAX_COST_USD},
        {"max_cost_usd": 0.01},
        {"data": {}},
        {"hyperparameters": {}},
        {"hyperparameters": {"anything": {"goes": [None, "here"]}}},
        {"entry_point": "jobs/digits/train_v2.1.py"},
        {"entry_point": "my jobs/größe (2)..v2.py"},
        {"source": "s3://my.data-bucket/a key with spaces/ü.tar.gz"},
        {"data": {"a.B-c_9": "s3://bucket/prefix", "c" * 64: "s3://bucket/prefix"}},
    ],
)
def test_accepts_the_edges(changes: dict[str, Any]) -> None:
    """The limits themselves, and everything that a field's documentation allows, are accepted."""
    assert problems(a_request(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": 3}, "'source' must be a string, got 3"),
        ({"source": None}, "'source' must be a string, got null"),
        ({"source": "./code"}, "'source' must be an address like s3://bucket/key, got ./code"),
        ({"source": "s3://bucket"}, "'source' must be an address like s3://bucket/key, got s3://bucket"),
        ({"source": "s3://b/key"}, "'source' must be an address like s3://bucket/key, got s3://b/key"),
        ({"source": "s3://bucket/k\n"}, "'source' must be an address like s3://bucket/key, got s3://bucket/k\n"),
        ({"entry_point": ["train.py"]}, "'entry_point' must be a string, got [\"train.py\"]"),
        ({"entry_point": "/train.py"}, "'entry_point' must be a relative path of a .py file, got /train.py"),
        (
            {"entry_point": "jobs/../../train.py"},
            "'entry_point' must be a relative path of a .py file, got jobs/../../train.py",
        ),
        ({"entry_point": "../train.py"}, "'entry_point' must be a relative path of a .py file, got ../train.py"),
        ({"entry_point": "train.sh"}, "'entry_point' must be a relative path of a .py file, got train.sh"),
        ({"entry_point": "train.py\n"}, "'entry_point' must be a relative path of a .py file, got train.py\n"),
        ({"gpus": "16"}, "'gpus' must be a whole number, got 16"),
        ({"gpus": True}, "'gpus' must be a whole number, got true"),
        ({"gpus": None}, "'gpus' must be a whole number, got null"),
        ({"gpus": 4.5}, "'gpus' must be a whole number, got 4.5"),
        ({"gpus": float("nan")}, "the request must hold finite numbers only, of at most 1.7e308"),
        ({"gpus": float("inf")}, "the request must hold finite numbers only, of at most 1.7e308"),
        ({"gpus": {"a": [1, 2]}}, "'gpus' must be a whole number, got {\"a\":[1,2]}"),
        ({"gpus": 0}, "'gpus' must be at least 1, got 0"),
        ({"gpus": -4.0}, "'gpus' must be at least 1, got -4"),
        ({"gpus": 36}, "'gpus' must be a multiple of 4 up to 32, got 36"),
        ({"gpus": 36.0}, "'gpus' must be a multiple of 4 up to 32, got 36"),
        ({"gpus": 1e308}, "'gpus' must be a multiple of 4 up to 32, got 1e+308"),
        ({"gpus": 6}, "'gpus' must be a multiple of 4 up to 32, got 6"),
        ({"min_gpus": 0}, "'min_gpus' must be at least 1, got 0"),
        ({"min_gpus": 2.5}, "'min_gpus' must be a whole number, got 2.5"),
        ({"min_gpus": 17}, "'min_gpus' must be at most 'gpus', which is 16, got 17"),
        ({"max_restarts": -1}, "'max_restarts' must be at least 0, got -1"),
        ({"max_restarts": 21.0}, "'max_restarts' must be at most 20, got 21"),
        ({"max_restarts": "3"}, "'max_restarts' must be a whole number, got 3"),
        ({"resume_from": 1}, "'resume_from' must be a string, got 1"),
        ({"model": "none"}, "'model' must be required or optional, got none"),
        ({"resume_from": "../x"}, "'resume_from' must be a run's name, got ../x"),
        ({"data": "s3://bucket/key"}, "'data' must be an object, got s3://bucket/key"),
        ({"data": []}, "'data' must be an object, got []"),
        ({"data": {"train": "digits"}}, "'data.train' must be an address like s3://bucket/folder/, got digits"),
        ({"data": {"train": None}}, "'data.train' must be an address like s3://bucket/folder/, got null"),
        (
            {"data": {"two words": "s3://bucket/key"}},
            "'data' has a channel named two words; use letters (a-z, A-Z), digits, '.', '_' and '-'",
        ),
        (
            {"data": {"": "s3://bucket/key"}},
            "'data' has a channel named ; use letters (a-z, A-Z), digits, '.', '_' and '-'",
        ),
        ({"hyperparameters": [1]}, "'hyperparameters' must be an object, got [1]"),
        ({"hyperparameters": "ü"}, "'hyperparameters' must be an object, got ü"),
        ({"max_runtime_seconds": "1h"}, "'max_runtime_seconds' must be a whole number, got 1h"),
        ({"max_runtime_seconds": 0}, "'max_runtime_seconds' must be at least 1, got 0"),
        ({"max_runtime_seconds": 86_401}, "'max_runtime_seconds' must be at most 86400, got 86401"),
        ({"max_cost_usd": "5 USD"}, "'max_cost_usd' must be a number, got 5 USD"),
        ({"max_cost_usd": True}, "'max_cost_usd' must be a number, got true"),
        ({"max_cost_usd": [1.0]}, "'max_cost_usd' must be a number, got [1]"),
        ({"max_cost_usd": 0}, "'max_cost_usd' must be more than 0, got 0"),
        ({"max_cost_usd": -0.5}, "'max_cost_usd' must be more than 0, got -0.5"),
        ({"max_cost_usd": 500.01}, "'max_cost_usd' must be at most 500, got 500.01"),
        ({"on_demand_prices": 1.5}, "'on_demand_prices' must be an object, got 1.5"),
        (
            {"on_demand_prices": {"g5": 1.5}},
            "'on_demand_prices' has an instance type named g5; write it like g5.xlarge",
        ),
        (
            {"on_demand_prices": {"g5.xlarge": 100_600}},
            "'on_demand_prices.g5.xlarge' must be USD an hour, a number from 0.001 to 10000, got 100600",
        ),
        (
            {"gpu": 16},
            "'gpu' is not a field of a request; its fields are "
            "source, entry_point, gpus, min_gpus, data, hyperparameters, max_restarts, resume_from, model, "
            "max_runtime_seconds, max_cost_usd, on_demand_prices, owner, project",
        ),
    ],
)
def test_fails_when_one_field_is_wrong(changes: dict[str, Any], sentence: str) -> None:
    """One wrong field gives one sentence, which names the field and shows the value as JSON."""
    assert problems(a_request(**changes)) == [sentence]


@pytest.mark.parametrize("field", [field for field in contract.REQUEST_FIELDS if field.required], ids=lambda f: f.name)
def test_fails_when_a_required_field_is_missing(field: contract.RequestField) -> None:
    """A missing field is named together with what it is for, in the words of its documentation."""
    # GIVEN
    request = a_request()
    del request[field.name]

    # WHEN
    found = problems(request)

    # THEN
    assert found == [f"'{field.name}' is missing ({field.meaning.removesuffix('.')})"]


@pytest.mark.parametrize(
    ("request_", "shown"),
    [(None, "null"), ([], "[]"), ("train.py", "train.py"), (4, "4"), (False, "false"), (4.0, "4")],
)
def test_fails_when_the_request_is_no_object(request_: Any, shown: str) -> None:
    """An input that is not an object is shown, and nothing else is said about it."""
    assert problems(request_) == [f"the request must be an object, got {shown}"]


def test_lists_every_wrong_field_at_once() -> None:
    """A user who made three mistakes learns of three, in the order of the documentation, unknown fields first."""
    # GIVEN
    request = a_request(source=1, gpus="many", epochs=3)

    # WHEN
    found = problems(request)

    # THEN
    assert [sentence.split("'")[1] for sentence in found] == ["epochs", "source", "gpus"]


def test_lists_every_limit_at_once() -> None:
    """GPUs, runtime and cost beyond their limits give one sentence each."""
    # WHEN
    found = problems(a_request(gpus=64, min_gpus=65, max_runtime_seconds=100_000, max_cost_usd=1000))

    # THEN
    assert [sentence.split("'")[1] for sentence in found] == ["gpus", "min_gpus", "max_runtime_seconds", "max_cost_usd"]


@pytest.mark.parametrize(("gpus", "fits"), [(8, True), (16, True), (24, False), (1, True), (3, False), (32, True)])
def test_takes_what_fits_one_of_several_fleets(gpus: int, fits: bool) -> None:
    """A run needs one fleet that it fits, not all of them; the sentence names each kind of fleet once."""
    # GIVEN
    sizes = [(16, 8), (2, 1), (32, 32), (16, 8)]
    fleets = [contract.FleetSize(max_gpus=most, gpu_step=step) for most, step in sizes]

    # WHEN
    found = contract.check_request(a_request(gpus=gpus), fleets=fleets, max_runtime_seconds=MAX_RUNTIME_SECONDS)

    # THEN
    rule = "must be a multiple of 8 up to 16 or a multiple of 1 up to 2 or a multiple of 32 up to 32"
    assert found == ([] if fits else [f"'gpus' {rule}, got {gpus}"])


def test_checks_what_is_known() -> None:
    """Fields whose values are not known yet are neither missed nor checked; their names and all other fields are."""
    # GIVEN
    known = a_request(max_runtime_seconds=MAX_RUNTIME_SECONDS + 1)
    later = ["source", "gpus"]
    for field in later:
        del known[field]

    # WHEN
    found = contract.check_request(known, fleets=[FLEET], max_runtime_seconds=MAX_RUNTIME_SECONDS, unknown=later)
    misnamed = contract.check_request(known, fleets=[FLEET], max_runtime_seconds=1, unknown=[*later, "gpu"])

    # THEN
    assert found == [f"'max_runtime_seconds' must be at most {MAX_RUNTIME_SECONDS}, got {MAX_RUNTIME_SECONDS + 1}"]
    assert [sentence[:40] for sentence in misnamed] == ["'gpu' is not a field of a request; its f"]


def test_a_training_without_a_ceiling_takes_any() -> None:
    """A request may set any cost ceiling if the construct sets none."""
    # WHEN
    found = contract.check_request(a_request(max_cost_usd=1e9), fleets=[FLEET], max_runtime_seconds=MAX_RUNTIME_SECONDS)

    # THEN
    assert found == []


def test_says_so_when_a_value_cannot_be_shown() -> None:
    """A value that Python cannot write as JSON is refused without being shown."""
    # GIVEN
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    enormous = 10**5_000

    # THEN
    assert problems(a_request(gpus=nested)) == [contract.REQUEST_TOO_DEEP]
    assert problems(a_request(gpus=enormous)) == [contract.UNUSABLE_NUMBER]


def texts(value: Any) -> Iterator[str]:
    """Give every text in a JSON value, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


@given(json_values | changes | st.builds(lambda changed: a_request(**changed), changes | one_change))
def test_agrees_with_the_schema(request: Any) -> None:
    """Any JSON value gets sentences exactly when it breaks the schema, and never an exception."""
    # WHEN
    found = problems(request)

    # THEN what no process can be given, and two fields that are compared with each other, are beyond a schema
    if isinstance(request, dict) and any(re.search("[\0\ud800-\udfff]", text) for text in texts(request)):
        assert found == [contract.UNUSABLE_TEXT]
        return
    if found == [contract.UNUSABLE_NUMBER]:
        assert re.search("Infinity|NaN", json.dumps(request))
        return
    valid = Draft202012Validator(SCHEMA).is_valid(request) and request.get("min_gpus", 1) <= request["gpus"]
    assert (found == []) == valid
    told, rest = found[: contract.PROBLEMS_LIMIT], found[contract.PROBLEMS_LIMIT :]
    assert all(sentence.startswith(("'", "the request must be an object")) for sentence in told)
    assert all(re.fullmatch(r"and [1-9][0-9]* more", sentence) for sentence in rest)
    assert len(rest) <= 1


@given(changes)
def test_does_not_change_what_it_checks(request: dict[str, Any]) -> None:
    """The request that was checked is the request that is sent."""
    # GIVEN
    before = json.dumps(request)

    # WHEN
    problems(request)

    # THEN
    assert json.dumps(request) == before


def test_what_nodes_tell_shares_a_partition() -> None:
    """One query reads what a run's nodes report; secrets lie in a partition of their own, which grants can name."""
    # WHEN
    keys = [
        contract.run_key("r"),
        contract.task_key("f", "r", 1, contract.TASK_RING),
        contract.leader_key("f", "r", 1),
        contract.node_key("f", "r", 1, "i-1"),
        contract.plan_key("f", "r", 1),
        contract.channel_key("f", "r", 1),
        contract.failure_key("f", "r", 1, "i-1"),
    ]

    # THEN
    assert keys == [
        ("RUN#r", "RUN"),
        ("SECRETS#f#r", "TASK#0001#ring"),
        ("NODES#f#r", "LEADER#0001"),
        ("NODES#f#r", "NODE#0001#i-1"),
        ("NODES#f#r", "PLAN#0001"),
        ("SECRETS#f#r", "CHANNEL#0001"),
        ("NODES#f#r", "FAILURE#0001#i-1"),
    ]
    assert contract.lease_key("f") == ("FLEET#f", "LEASE")
    assert contract.queue_key("q") == ("QUEUE#q", "LINE")


def test_names_the_files_of_a_run() -> None:
    """Model and receipt lie side by side, checkpoints by attempt; a script lies under its content's digest."""
    assert contract.model_key("r") == "runs/r/model.tar.gz"
    assert contract.receipt_key("r") == "runs/r/receipt.json"
    assert contract.checkpoint_prefix("r", 2, 17) == "checkpoints/r/0002-00000017/"
    assert contract.checkpoint_prefix("r", 2, 17).startswith(contract.checkpoint_prefix("r", 2))
    assert contract.checkpoint_prefix("r", 2).startswith(contract.checkpoint_prefix("r"))
    assert contract.source_key("abc") == "source/abc/source.tar.gz"


def test_nodes_know_the_version_of_the_library() -> None:
    """The package in the image names the version that the project has."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    assert project["version"] == __version__


def test_run_is_its_execution() -> None:
    """A run's id differs with its name, its training and the second of its start, but not with fractions of it."""
    # GIVEN
    started = datetime(2026, 11, 26, 12, 2, 36, 999_999, tzinfo=timezone(timedelta(hours=1)))
    # WHEN
    found = contract.run_id("StackTraining", "digits", started)
    # THEN
    assert found == "StackTraining/digits/20261126T110236Z"
    assert (contract.training_of(found), contract.name_of(found)) == ("StackTraining", "digits")
    assert found.startswith(contract.run_ids_prefix("StackTraining", "digits"))


@pytest.mark.parametrize("fraction", ["", ".999", ".9999999"])
def test_state_machine_and_client_identify_a_run_alike(fraction: str) -> None:
    """State machine and client derive the same run id, whether or not StartTime has fractions of a second."""
    # GIVEN
    expression = run_id("StackTraining", name="$name", started="$started")
    variables = {"name": "digits", "started": f"2026-11-26T11:02:36{fraction}Z"}
    # WHEN
    (by_step_functions,), here = by_reference([variables], expression), evaluate(expression, variables)
    # THEN
    assert (
        by_step_functions
        == here
        == contract.run_id("StackTraining", "digits", datetime(2026, 11, 26, 11, 2, 36, 999_000, tzinfo=UTC))
    )


def test_sort_keys_are_in_the_order_of_attempts() -> None:
    """A query returns attempt 12 after attempt 9."""
    keys = [contract.node_key("f", "r", attempt, "i-1")[1] for attempt in (9, 12, 100)]
    assert keys == sorted(keys)
