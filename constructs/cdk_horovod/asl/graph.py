"""
Draws the state machines as Mermaid flowcharts.

    python -m cdk_horovod.asl.graph TEMPLATE OUT.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cdk_horovod.asl.resolved import by_layer

_TITLES = {"run": "A run", "clean-up": "The clean-up after a run", "reaper": "The reaper"}
_SHAPES = {"Choice": ("{", "}"), "Succeed": ("([", "])"), "Fail": ("([", "])"), "Wait": ("[/", "/]")}


def mermaid(definition: Mapping[str, Any]) -> str:
    """
    Draw *definition* with solid arrows for transitions and dotted arrows for Catch.

    Args:
        definition: A state machine in Amazon States Language.
    """
    ids = {name: f"s{number}" for number, name in enumerate(definition["States"])}
    lines = ["flowchart TD", f"  start(( )) --> {ids[definition['StartAt']]}"]
    for name, state in definition["States"].items():
        left, right = _SHAPES.get(state["Type"], ("[", "]"))
        waits = " ⏳" if str(state.get("Resource", "")).endswith(".waitForTaskToken") else ""
        lines.append(f'  {ids[name]}{left}"{name}{waits}"{right}')
        lines += [f"  {ids[name]} {arrow} {ids[target]}" for arrow, target in _ways(state)]
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
    """Read a template and write the charts of its state machines to a Markdown file."""
    template, out = map(Path, arguments)
    definitions = by_layer(json.loads(template.read_text()))
    charts = [f"## {_TITLES[layer]}\n\n{drawn(definition)}" for layer, definition in definitions.items()]
    out.write_text(
        "# The state machines\n\n"
        "`make graph` draws these from the synthesised template. Dotted arrows follow an error. "
        "⏳: the state waits for the leader.\n\n" + "\n".join(charts)
    )


def drawn(definition: Mapping[str, Any]) -> str:
    """Draw *definition* as Markdown, followed by the item processors of its Map states."""
    text = f"```mermaid\n{mermaid(definition)}```\n"
    for name, state in definition["States"].items():
        if "ItemProcessor" in state:
            text += f"\n*{name}*, each:\n\n{drawn(state['ItemProcessor'])}"
    return text


if __name__ == "__main__":
    main(sys.argv[1:])
