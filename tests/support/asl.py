"""
Amazon States Language for tests: walks a definition's states, edges and variables, and evaluates its JSONata.

The evaluator is the reference implementation of JSONata, in the release that Step Functions documents.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from support.synthesis import REPOSITORY

State = Mapping[str, Any]
States = Mapping[str, State]

TERMINAL = ("Succeed", "Fail")


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One way from a state to the next, and the variables that are set on it."""

    source: str
    target: str
    assigns: frozenset[str]
    error: bool


def edges(states: States) -> Iterator[Edge]:
    """List every way out of every state."""
    for name, state in states.items():
        own = frozenset(state.get("Assign", {}))
        if "Next" in state:
            yield Edge(source=name, target=state["Next"], assigns=own, error=False)
        for choice in state.get("Choices", ()):
            yield Edge(
                source=name, target=choice["Next"], assigns=own | frozenset(choice.get("Assign", {})), error=False
            )
        if "Default" in state:
            yield Edge(source=name, target=state["Default"], assigns=own, error=False)
        for catch in state.get("Catch", ()):
            yield Edge(source=name, target=catch["Next"], assigns=frozenset(catch.get("Assign", {})), error=True)


def reachable(states: States, *, start: str, avoiding: frozenset[str] = frozenset()) -> set[str]:
    """List the states that can follow *start*, itself included, without passing a state of *avoiding*."""
    following: dict[str, set[str]] = {}
    for edge in edges(states):
        following.setdefault(edge.source, set()).add(edge.target)
    found: set[str] = set()
    frontier = [start]
    while frontier:
        name = frontier.pop()
        if name in found or name in avoiding:
            continue
        found.add(name)
        frontier += following.get(name, ())
    return found


def expressions(value: Any) -> Iterator[str]:
    """List the JSONata expressions inside *value*."""
    if isinstance(value, str):
        if value.startswith("{%") and value.endswith("%}"):
            yield value[2:-2]
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from expressions(item)


def variables_read(value: Any) -> set[str]:
    """List the workflow variables that the JSONata inside *value* reads."""
    names: set[str] = set()
    for expression in expressions(value):
        code = re.sub(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', "''", expression)
        parameters = re.findall(r"function\(([^)]*)\)", code)
        local = {name for group in parameters for name in re.findall(r"\$(\w+)", group)}
        local |= set(re.findall(r"\$(\w+)\s*:=", code))
        used = {name for name, call in re.findall(r"\$(\w+)\s*(\()?", code) if not call}
        names |= used - local - {"states"}
    return names


def assigned_before(states: States, *, start: str, given: frozenset[str] = frozenset()) -> dict[str, frozenset[str]]:
    """Compute, for each reachable state, the variables that are set on every way to it."""
    incoming: dict[str, frozenset[str]] = {start: given}
    changed = True
    while changed:
        changed = False
        for edge in edges(states):
            if edge.source not in incoming:
                continue
            arriving = incoming[edge.source] | edge.assigns
            known = incoming.get(edge.target)
            merged = arriving if known is None else known & arriving
            if merged != known:
                incoming[edge.target] = merged
                changed = True
    return incoming


def all_states(definition: Mapping[str, Any]) -> Iterator[tuple[str, State]]:
    """List the states of *definition*, those inside maps and branches included."""
    for name, state in definition["States"].items():
        yield name, state
        for inner in inside(state):
            yield from all_states(inner)


def inside(state: State) -> Iterator[Mapping[str, Any]]:
    """List what runs inside *state*: a map's processor, or branches; each with its first state and all of them."""
    if "ItemProcessor" in state:
        yield state["ItemProcessor"]
    yield from state.get("Branches", ())


def bare(expression: str) -> str:
    """Take the expression out of its marks."""
    return expression.removeprefix("{%").removesuffix("%}")


def by_reference(cases: Sequence[Mapping[str, Any]], expression: str, *, carried: str = "") -> list[Any]:
    """
    Evaluate *expression* with JSONata 2.0.6, the release that Step Functions documents.

    Args:
        cases: Variables, by name without the `$`; the answers come in the same order.
        expression: Without its marks.
        carried: A variable that each answer becomes for the next case, as in a loop of states. Default: none.
    """
    script = """
      const jsonata = require("jsonata");
      const [text, cases, carried] = JSON.parse(require("fs").readFileSync(0, "utf8"));
      const expression = jsonata(text);
      expression.registerFunction("parse", JSON.parse, "<s:j>");  // Step Functions' own
      const hash = (text, by) => require("crypto").createHash(by.replace("-", "")).update(text).digest("hex");
      expression.registerFunction("hash", hash, "<ss:s>");
      (async () => {
        const answers = [];
        for (const bindings of cases) {
          if (carried && answers.length) bindings[carried] = answers[answers.length - 1];
          answers.push(await expression.evaluate(null, bindings) ?? null);
        }
        console.log(JSON.stringify(answers));
      })();
    """
    done = subprocess.run(
        ["node", "-e", script],
        input=json.dumps([expression, cases, carried]),
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers
