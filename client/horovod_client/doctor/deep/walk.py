"""
A walk through a definition with TestState: each state gets the variables that earlier states assigned.

The states come from the definition, and Step Functions itself evaluates the variables. A branch that no mocked value
leads into is entered with the variables at its fork.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from horovod_client.doctor.deep.mocks import STARTED, Mock, MockMaker, errors, misread

SUCCEEDED: Final = "SUCCEEDED"
MOCKED: Final = ("Task", "Map", "Parallel")
MOST_VISITS: Final = 6
"""Largest number of visits of a Choice, to reach each of its branches."""
TestState = Callable[..., dict[str, Any]]
"""Takes the arguments of TestState, and returns its answer or raises `Untestable`."""


class Untestable(Exception):  # noqa: N818 - it is AWS's answer
    """TestState refused a request; the text is AWS's message."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """
    Result of the tests of a state.

    Args:
        state: Name of the state.
        tried: Names of the mocks, such as `a result`.
        problem: AWS's message about a mock that the state should have handled; empty if the state passed.
    """

    state: str
    tried: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class _Arrival:
    """An entry into a state, with its input and variables."""

    state: str
    given: Any
    variables: Mapping[str, Any]
    again: bool = False
    """Whether the state is visited even if it was visited before."""


@dataclass(kw_only=True)
class _Machine:
    """The states of one level: of the definition, or of an iteration or branch."""

    start: str
    states: Mapping[str, Mapping[str, Any]]
    ways: deque[_Arrival] = field(default_factory=deque)
    forks: dict[str, _Arrival] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)


class Walk:
    """
    Tests every state of a definition.

    Args:
        ask: Calls TestState.
        definition: Definition of the state machine, as JSON text.
        given: Input of the execution.
        execution: ARN of the execution in the context.
        mocks: Creates results and errors.
    """

    def __init__(self, ask: TestState, *, definition: str, given: Any, execution: str, mocks: MockMaker) -> None:
        self._machine = json.loads(definition)
        self._ask = ask
        self._given = given
        self._mocks = mocks
        self._execution = execution
        self._text = json.dumps(_hasty(self._machine))
        self._visits: dict[str, int] = {}
        self._taken: dict[str, set[str]] = {}

    def verdicts(self) -> Iterator[Verdict]:
        """Test the states one after the other, in the order of an execution."""
        yield from self._walk(self._machine, given=self._given, variables={})

    def _walk(
        self, level: Mapping[str, Any], *, given: Any, variables: Mapping[str, Any], outputs: list[Any] | None = None
    ) -> Iterator[Verdict]:
        machine = _Machine(start=level["StartAt"], states=level["States"], outputs=[] if outputs is None else outputs)
        machine.ways.append(_Arrival(state=machine.start, given=given, variables=variables))
        if level is self._machine:
            # An empty input leads into the branch for invalid requests.
            machine.ways.append(_Arrival(state=machine.start, given={}, variables=variables, again=True))
        while machine.ways or machine.forks:
            way = machine.ways.popleft() if machine.ways else machine.forks.pop(next(iter(machine.forks)))
            if not way.again and self._is_needless(machine, way.state):
                continue
            first = way.state not in self._visits
            self._visits[way.state] = self._visits.get(way.state, 0) + 1
            verdicts = [*self._visit(machine, way)]
            if first:
                yield from verdicts

    def _is_needless(self, machine: _Machine, name: str) -> bool:
        visits, state = self._visits.get(name, 0), machine.states[name]
        if visits == 0:
            return False
        return state["Type"] != "Choice" or visits >= MOST_VISITS or self._taken.get(name, set()) >= {*_branches(state)}

    def _visit(self, machine: _Machine, way: _Arrival) -> Iterator[Verdict]:
        """Test one state, and record the states that it leads to."""
        state = machine.states[way.state]
        kind = state["Type"]
        tried: list[str] = []
        problems = misread(state)
        for target in _branches(state):
            # Used only for a branch that no mocked value leads into.
            machine.forks.setdefault(target, _Arrival(state=target, given=way.given, variables=way.variables))
        inside: list[Verdict] = []
        try:
            mocks = self._mocks_of(state, way, inside) if kind in MOCKED else [Mock(name="", required=SUCCEEDED)]
        except (Untestable, ValueError) as error:
            mocks = []
            problems.append(str(error))
        for mock in mocks:
            if mock.name:
                tried.append(mock.name)
            try:
                answer = self._test(state, way, mock if kind in MOCKED else None)
            except Untestable as error:
                if mock.required:
                    problems.append(_told(mock, str(error)))
                continue
            problem = _problem(state, mock, answer)
            if problem:
                problems.append(_told(mock, problem))
            self._note(machine, way, state, answer)
        yield Verdict(state=way.state, tried=tuple(tried), problem="; ".join(problems))
        yield from inside

    def _mocks_of(self, state: Mapping[str, Any], way: _Arrival, inside: list[Verdict]) -> list[Mock]:
        if state["Type"] == "Task":
            results = self._mocks.results(state, way.variables, execution=self._execution)
        else:
            results = [Mock(name="a result", result=self._inside(state, way, inside), required=SUCCEEDED)]
        return [*results, *errors(state)]

    def _inside(self, state: Mapping[str, Any], way: _Arrival, inside: list[Verdict]) -> list[Any]:
        """Walk through the inner states of a Map or Parallel state, and return its result."""
        if state["Type"] == "Parallel":
            results = []
            for branch in state["Branches"]:
                outputs: list[Any] = []
                inside += self._walk(branch, given=way.given, variables=way.variables, outputs=outputs)
                results.append(outputs[0] if outputs else {})
            return results
        items = self._items(state, way)
        outputs = []
        given = items[0] if items else self._mocks.item(state["ItemProcessor"]["States"])
        inside += self._walk(state["ItemProcessor"], given=given, variables=way.variables, outputs=outputs)
        return [outputs[0] for _ in items] if outputs else []

    def _items(self, state: Mapping[str, Any], way: _Arrival) -> list[Any]:
        """Evaluate the items of a Map state in a Pass state: TestState shows them only for a Map with a selector."""
        items: Any = {"QueryLanguage": "JSONata", "Type": "Pass", "Output": state.get("Items", way.given), "End": True}
        answer = self._ask(
            definition=json.dumps(items), input=json.dumps(way.given), variables=json.dumps(dict(way.variables))
        )
        if answer["status"] != SUCCEEDED:
            raise Untestable(f"Items: {answer.get('error')}: {answer.get('cause')}")
        found = json.loads(answer["output"])
        if "ItemSelector" in state and found:
            mock = Mock(name="", result=[{} for _ in found])
            seen = self._test(state, way, mock).get("inspectionData", {}).get("afterItemSelector")
            found = json.loads(seen) if seen else found
        return list(found) if isinstance(found, list) else [found]

    def _test(self, state: Mapping[str, Any], way: _Arrival, mock: Mock | None) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "definition": self._text,
            "stateName": way.state,
            "inspectionLevel": "DEBUG",
            "input": json.dumps(way.given),
            "variables": json.dumps(dict(way.variables)),
        }
        if mock is not None:
            by_token = str(state.get("Resource", "")).endswith(".waitForTaskToken")
            # No API model describes the answer to a task token.
            arguments["mock"] = {**mock.argument, "fieldValidationMode": "NONE" if by_token else "STRICT"}
            # Only a state with a mock may have a context.
            arguments["context"] = json.dumps(self._context(way, by_token=by_token))
            if mock.error is not None:
                arguments["stateConfiguration"] = {"retrierRetryCount": mock.retries}
        return self._ask(**arguments)

    def _context(self, way: _Arrival, *, by_token: bool) -> dict[str, Any]:
        name = self._execution.rpartition(":")[2]
        context: dict[str, Any] = {
            "Execution": {
                "Id": self._execution,
                "Input": self._given,
                "Name": name,
                "StartTime": STARTED,
                "RedriveCount": 0,
            },
            "State": {"Name": way.state, "EnteredTime": STARTED, "RetryCount": 0},
        }
        if by_token:
            context["Task"] = {"Token": "mocked"}
        return context

    def _note(self, machine: _Machine, way: _Arrival, state: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        output = json.loads(answer.get("output") or "{}")
        if state.get("End") and answer["status"] == SUCCEEDED:
            machine.outputs.append(output)
        target = answer.get("nextState")
        if target is None:
            return
        self._taken.setdefault(way.state, set()).add(target)
        variables = json.loads(answer.get("inspectionData", {}).get("variables") or json.dumps(dict(way.variables)))
        machine.ways.append(_Arrival(state=target, given=output, variables=variables))


def _problem(state: Mapping[str, Any], mock: Mock, answer: Mapping[str, Any]) -> str:
    """Describe what is wrong with the answer; empty if it is as required."""
    status, said = answer["status"], f"{answer.get('error', '')}: {answer.get('cause', '')}"
    if state["Type"] == "Fail":
        wrong = str(answer.get("error", "")).startswith(("States.Runtime", "States.QueryEvaluationError"))
        return said if wrong or status != "FAILED" else ""
    if not mock.required or status == mock.required:
        details = answer.get("inspectionData", {}).get("errorDetails", {})
        index = details.get("retryIndex" if mock.required == "RETRIABLE" else "catchIndex")
        if mock.index is None or index is None or index == mock.index:
            return ""
        return f"handler number {index + 1} handled it instead of number {mock.index + 1}"
    return said if answer.get("error") else f"it ended as {status}"


def _told(mock: Mock, problem: str) -> str:
    return f"given {mock.name}: {problem}" if mock.name else problem


def _branches(state: Mapping[str, Any]) -> Iterator[str]:
    """List the possible next states."""
    yield from (choice["Next"] for choice in state.get("Choices", ()))
    yield from (state[key] for key in ("Default", "Next") if key in state)
    yield from (catcher["Next"] for catcher in state.get("Catch", ()))


def _hasty(level: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a definition with Wait states of one second, because TestState really waits."""
    states = {}
    for name, state in level["States"].items():
        states[name] = dict(state)
        if state["Type"] == "Wait":
            states[name]["Seconds"] = _shortened(state.get("Seconds"))
        if "ItemProcessor" in state:
            states[name]["ItemProcessor"] = _hasty(state["ItemProcessor"])
        if "Branches" in state:
            states[name]["Branches"] = [_hasty(branch) for branch in state["Branches"]]
    return {**level, "States": states}


def _shortened(seconds: Any) -> Any:
    if not isinstance(seconds, str):
        return 1
    expression = seconds.removeprefix("{%").removesuffix("%}").strip()
    # A value that is not a number is kept, so that Step Functions reports it.
    return f"{{% $type({expression}) = 'number' ? 1 : {expression} %}}"
