"""JSONata and variables, against AWS's documented behaviour."""

from __future__ import annotations

import json
from typing import Any

import pytest

from horovod_local.corrections.step_functions.jsonata import QueryEvaluationError, evaluate

AWKWARD = 'Traceback:\n  "quoted" \\ back {% $eval %} ${x} end\t\u00e9'


@pytest.mark.parametrize(
    ("expression", "bindings", "value"),
    [
        ("{% $states.input.gpus + 1 %}", {"states": {"input": {"gpus": 1}}}, 2),
        ("$count(nodes[state='ready'])", {}, 0),
        ("$count($nodes[state='ready'])", {"nodes": [{"state": "ready"}, {"state": "joined"}]}, 1),
        ("$sum($nodes.gpus)", {"nodes": [{"gpus": 4}, {"gpus": 1}]}, 5),
        ("$nodes[state='ready'].node", {"nodes": [{"state": "ready", "node": "a"}]}, "a"),
        ("[$nodes[state='ready'].node]", {"nodes": [{"state": "ready", "node": "a"}]}, ["a"]),
        ("[$nodes[state='ready'].node]", {"nodes": []}, []),
        ("$nodes.gpus", {"nodes": [{"gpus": 4}]}, 4),
        ("$nodes", {"nodes": [1]}, [1]),
        ("$filter([1, 2, 3], function($n) { $n > 2 })", {}, 3),
        ("$map([1, 2], function($n, $i) { $n * 10 + $i })", {}, [10, 21]),
        ("$reduce([1, 2, 3], function($a, $b) { $a + $b })", {}, 6),
        ("$each({'a': 1}, function($v, $k) { $k & $v })", {}, "a1"),
        ("$sort([3, 1], function($l, $r) { $l > $r })", {}, [1, 3]),
        ("$single([1, 2], function($n) { $n = 2 })", {}, 2),
        ("$match('s3://bucket/a/key', /^s3:\\/\\/([a-z]+)\\/(.+)$/).groups", {}, ["bucket", "a/key"]),
        ("$contains('train.py', /\\.py$/)", {}, True),
        ("$not($contains('train.sh', /\\.py$/))", {}, True),
        ("$exists($states.input.data)", {"states": {"input": {}}}, False),
        ("$exists($states.input.data)", {"states": {"input": {"data": None}}}, True),
        ("$type($nothing)", {"nothing": None}, "null"),
        ("$states.input.data ? 1 : 2", {"states": {"input": {}}}, 2),
        ("$merge([{'a': 1}, {'b': 2}])", {}, {"a": 1, "b": 2}),
        ("{'a': $missing, 'b': 1}", {}, {"b": 1}),
        ("{'a': null}", {}, {"a": None}),
        ("null", {}, None),
        ("$string({'a': [1, 'x', null]})", {}, '{"a":[1,"x",null]}'),
        ("$text", {"text": AWKWARD}, AWKWARD),
        ("6 / 3", {}, 2),
        ("1 / 4", {}, 0.25),
        ("[0..3]", {}, [0, 1, 2, 3]),
        ("($a := 2; $b := $a * 2; $b)", {}, 4),
        ("$partition([1, 2, 3, 4], 3)", {}, [[1, 2, 3], [4]]),
        ("$range(0, 10, 5)", {}, [0, 5, 10]),
        ("$range(3, 1, -1)", {}, [3, 2, 1]),
        ("$hash('content', 'SHA-1')", {}, "040f06fd774092478d450774f5ba30c5da78acc8"),
        ("$random(7) = $random(7)", {}, True),
        ("$random() < 1", {}, True),
        ("$length($uuid())", {}, 36),
        ("$uuid() = $uuid()", {}, False),
        ("$parse('{\"a\": [null]}')", {}, {"a": [None]}),
        ("$parse('null')", {}, None),
        ("$millis() = $millis()", {}, True),
        ("$now() = $fromMillis($millis())", {}, True),
    ],
)
def test_evaluate(expression: str, bindings: dict[str, Any], value: Any) -> None:
    """An expression has the value that JSONata 2.0.6 and Step Functions' own functions give it."""
    # WHEN
    result = evaluate(expression, bindings)

    # THEN
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("$missing", "returned nothing"),
        ("$states.result.value", "returned nothing"),
        ("[]", None),
        ("$filter([1], function($n) { $n > 1 })", "returned nothing"),
        ("1 +", "threw an error"),
        ("1 + 'a'", "T2002"),
        ("$nonsense(1)", "T1006"),
        ("$error('no model')", "no model"),
        ("$number('x')", "threw an error"),
        ("function($x) { $x }", "unsupported result type"),
        ("$sum", "unsupported result type"),
        ("$eval('1')", r"\$parse"),
        ("$hash('x', 'CRC')", "SHA-512"),
        ("$parse('{')", r"\$parse"),
        ("$range(1, 2, 0)", "the step not 0"),
    ],
)
def test_evaluate_fails(expression: str, reason: str | None) -> None:
    """Nothing, a function, and every error in an expression are a QueryEvaluationError; an empty array is a value."""
    # GIVEN
    bindings: dict[str, Any] = {"states": {"result": {}}}

    # WHEN, THEN
    if reason is None:
        assert evaluate(expression, bindings) == []
        return
    with pytest.raises(QueryEvaluationError, match=reason):
        evaluate(expression, bindings)


def test_jsonata_evaluates(machines: Any) -> None:
    """Values with quotes, newlines and JSONata in them pass through variables, output and context unchanged."""
    # GIVEN
    machine = {
        "StartAt": "Keep",
        "States": {
            "Keep": {"Type": "Pass", "Assign": {"text": "{% $states.input.text %}"}, "Next": "Give"},
            "Give": {
                "Type": "Pass",
                "Output": {"text": "{% $text %}", "run": "{% $states.context.Execution.Input.text %}"},
                "End": True,
            },
        },
    }

    # WHEN
    output = machines.output(machine, {"text": AWKWARD})

    # THEN
    assert output == {"text": AWKWARD, "run": AWKWARD}


@pytest.mark.parametrize("expression", ["$states.input.missing", "$missing", "1 + 'a'", "$error('told')"])
def test_failed_expressions_are_query_evaluation_errors(machines: Any, expression: str) -> None:
    """An expression in a field that gives nothing or fails ends the state with States.QueryEvaluationError."""
    # WHEN
    ended = machines.run({"Type": "Pass", "Output": f"{{% {expression} %}}"})

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "States.QueryEvaluationError")
    assert f"'{expression}'" in ended["cause"]


def test_failed_arguments_are_caught(machines: Any) -> None:
    """A task whose arguments cannot be evaluated is caught, with the reason."""
    # GIVEN
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::aws-sdk:s3:listBuckets",
        "Arguments": {"Prefix": "{% $missing %}"},
        "Catch": [
            {"ErrorEquals": ["States.QueryEvaluationError"], "Next": "Caught", "Output": "{% $states.errorOutput %}"}
        ],
        "End": True,
    }
    machine = {"StartAt": "Task", "States": {"Task": task, "Caught": {"Type": "Pass", "End": True}}}

    # WHEN
    output = machines.output(machine)

    # THEN
    assert output["Error"] == "States.QueryEvaluationError"
    assert "returned nothing (undefined)" in output["Cause"]


def test_variables_are_those_at_entry(machines: Any) -> None:
    """Output and Assign of one state both see the variables as they were on entry."""
    # GIVEN
    machine = {
        "StartAt": "First",
        "States": {
            "First": {"Type": "Pass", "Assign": {"attempt": 1}, "Next": "Second"},
            "Second": {
                "Type": "Pass",
                "Assign": {"attempt": "{% $attempt + 1 %}", "double": "{% $attempt * 2 %}"},
                "Output": {"on entry": "{% $attempt %}"},
                "Next": "Third",
            },
            "Third": {
                "Type": "Pass",
                "Output": {"before": "{% $states.input %}", "after": "{% [$attempt, $double] %}"},
                "End": True,
            },
        },
    }

    # WHEN
    output = machines.output(machine)

    # THEN
    assert output == {"before": {"on entry": 1}, "after": [2, 2]}


@pytest.mark.parametrize("condition", ["{% 1 %}", "{% 'true' %}", "{% $states.input %}"])
def test_conditions_are_boolean(machines: Any, condition: str) -> None:
    """A Choice whose condition is no boolean fails with States.QueryEvaluationError."""
    # GIVEN
    choice = {"Type": "Choice", "Choices": [{"Condition": condition, "Next": "Yes"}], "Default": "Yes"}
    machine = {"StartAt": "Choose", "States": {"Choose": choice, "Yes": {"Type": "Succeed"}}}

    # WHEN
    ended = machines.run(machine)

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "States.QueryEvaluationError")
    assert "Expected 'boolean'" in ended["cause"]


def test_maps_take_items_and_variables(machines: Any) -> None:
    """A Map state takes Items and ItemSelector in JSONata; its iterations read the variables outside."""
    # GIVEN
    machine = {
        "StartAt": "Keep",
        "States": {
            "Keep": {"Type": "Pass", "Assign": {"factor": 10}, "Next": "Each"},
            "Each": {
                "Type": "Map",
                "Items": "{% $states.input.numbers %}",
                "ItemSelector": {
                    "value": "{% $states.context.Map.Item.Value %}",
                    "index": "{% $states.context.Map.Item.Index %}",
                },
                "ItemProcessor": {
                    "ProcessorConfig": {"Mode": "INLINE"},
                    "StartAt": "Multiply",
                    "States": {
                        "Multiply": {
                            "Type": "Pass",
                            "Output": "{% $states.input.value * $factor + $states.input.index %}",
                            "End": True,
                        }
                    },
                },
                "Output": {"sum": "{% $sum($states.result) %}", "all": "{% $states.result %}"},
                "End": True,
            },
        },
    }

    # WHEN
    outputs = [machines.output(machine, {"numbers": numbers}) for numbers in ([1, 2, 3], [5], [])]

    # THEN
    assert outputs == [{"sum": 63, "all": [10, 21, 32]}, {"sum": 50, "all": [50]}, {"sum": 0, "all": []}]


def test_parallel_branches_give_an_array(machines: Any) -> None:
    """A Parallel state's result holds the branches' outputs in order; Arguments is their input."""
    # GIVEN
    branch = {"StartAt": "Give", "States": {"Give": {"Type": "Pass", "Output": "{% $states.input.a %}", "End": True}}}
    parallel = {"Type": "Parallel", "Branches": [branch, branch], "Arguments": {"a": "{% $states.input.given %}"}}

    # WHEN
    output = machines.output({**parallel, "Output": "{% $states.result %}"}, {"given": [1]})

    # THEN
    assert output == [[1], [1]]


def test_null_is_a_value(machines: Any) -> None:
    """A field that evaluates to JSON's null is null, not nothing."""
    # WHEN
    output = machines.output({"Type": "Pass", "Output": {"a": "{% null %}", "b": "{% $states.input.b %}"}}, {"b": None})

    # THEN
    assert output == {"a": None, "b": None}


def test_fail_states_take_expressions(machines: Any) -> None:
    """Error and Cause of a Fail state may be expressions."""
    # GIVEN
    fail = {"Type": "Fail", "Error": "{% 'My' & 'Error' %}", "Cause": "{% $string($states.input) %}"}
    machine = {"StartAt": "Fail", "States": {"Fail": fail}}

    # WHEN
    ended = machines.run(machine, {"a": 1})

    # THEN
    assert (ended["error"], json.loads(ended["cause"])) == ("MyError", {"a": 1})
