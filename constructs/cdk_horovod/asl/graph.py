"""
Draws the state machines as Mermaid flowcharts.

    python -m cdk_horovod.asl.graph OUT.md TEMPLATE [ENGINE=TEMPLATE …]

The first template is drawn whole; of each further one, only what its engine does differently in a run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from cdk_horovod.asl.resolved import by_layer, own_states

_TITLES = {"run": "A run", "clean-up": "The clean-up after a run", "reaper": "The reaper"}
_SHAPES = {"Choice": ("{", "}"), "Succeed": ("([", "])"), "Fail": ("([", "])"), "Wait": ("[/", "/]")}


def document(template: Mapping[str, Any], engines: Mapping[str, Mapping[str, Any]]) -> str:
    """
    Write the page with all drawings, in Markdown.

    Args:
        template: Template of a training, which is drawn whole.
        engines: Templates of trainings on other engines, by the engine's name for people.
    """
    definitions = by_layer(template)
    sections = [(_TITLES[layer], drawn(definition)) for layer, definition in definitions.items()]
    sections += [
        (f"A run on {engine}", _beside(by_layer(other)["run"], others=definitions["run"]))
        for engine, other in engines.items()
    ]
    return (
        "# The state machines\n\n"
        "`make graph` draws these from the synthesised templates, first those of a training on EC2. Dotted arrows "
        "follow an error. ⏳: the state waits for the leader.\n\n"
        + "\n".join(f"## {title}\n\n{section}" for title, section in sections)
    )


def drawn(definition: Mapping[str, Any]) -> str:
    """Draw *definition* as Markdown, followed by what is in its Map and Parallel states."""
    return _drawn(_mermaid(definition), definition["States"])


def _beside(definition: Mapping[str, Any], *, others: Mapping[str, Any]) -> str:
    """Draw an engine's own states and their neighbours; *others* is the same state machine on EC2."""
    own = own_states(definition, beside=others)
    chart = _drawn(_mermaid(definition, only=own), own)
    absent = [name for name in others["States"] if name not in definition["States"]]
    without = f" It does not have these: {', '.join(f'*{name}*' for name in absent)}." if absent else ""
    return (
        "Drawn thick are the states that a run on EC2 does not have, or in which it does something else; thin, the "
        f"states before and after them.{without}\n\n{chart}"
    )


def _drawn(chart: str, states: Mapping[str, Any]) -> str:
    text = f"```mermaid\n{chart}```\n"
    for name, state in states.items():
        if "ItemProcessor" in state:
            text += f"\n*{name}*, each:\n\n{drawn(state['ItemProcessor'])}"
        for branch in state.get("Branches", ()):
            text += f"\n*{name}*:\n\n{drawn(branch)}"
    return text


def _mermaid(definition: Mapping[str, Any], *, only: Collection[str] = ()) -> str:
    """
    Draw *definition* with solid arrows for transitions and dotted arrows for Catch.

    Args:
        definition: A state machine in Amazon States Language.
        only: Names of states, to draw these, thick, with the transitions to and from them. Default: draw all.
    """
    ways = [
        (name, arrow, target)
        for name, state in definition["States"].items()
        for arrow, target in _ways(state)
        if not only or ((name in only or target in only) and not arrow.startswith("-."))
    ]
    ends = {end for name, _, target in ways for end in (name, target)}
    ids = {
        name: f"s{number}"
        for number, name in enumerate(name for name in definition["States"] if not only or name in ends)
    }
    lines = ["flowchart TD"] if only else ["flowchart TD", f"  start(( )) --> {ids[definition['StartAt']]}"]
    for name, id in ids.items():
        state = definition["States"][name]
        left, right = _SHAPES.get(state["Type"], ("[", "]"))
        waits = " ⏳" if str(state.get("Resource", "")).endswith(".waitForTaskToken") else ""
        lines.append(f'  {id}{left}"{name}{waits}"{right}')
        lines += [f"  {id} {arrow} {ids[target]}" for source, arrow, target in ways if source == name]
    lines += [f"  style {ids[name]} stroke-width:3px" for name in only]
    return "\n".join(lines) + "\n"


def _ways(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "Next" in state:
        yield "-->", state["Next"]
    for choice in state.get("Choices", ()):
        yield "-->|yes|", choice["Next"]
    if "Default" in state:
        yield "-->|no|", state["Default"]
    for catch in state.get("Catch", ()):
        errors = ", ".join(error.split(".")[-1] for error in catch["ErrorEquals"])
        yield f"-.->|{'error' if errors == 'ALL' else errors}|", catch["Next"]


def main(arguments: list[str]) -> None:
    """Read templates and write the charts of their state machines to a Markdown file."""
    out, template, *others = arguments
    named = dict(other.split("=", 1) for other in others)
    Path(out).write_text(document(_read(template), {engine: _read(path) for engine, path in named.items()}))


def _read(template: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(template).read_text())
    return read


if __name__ == "__main__":
    main(sys.argv[1:])
