"""
Draws the state machine as a Mermaid flowchart.

    python -m cdk_horovod.workflow.graph TEMPLATE OUT.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cdk_horovod.workflow.resolved import resolved_definitions

_SHAPES = {"Choice": ("{", "}"), "Succeed": ("([", "])"), "Fail": ("([", "])"), "Wait": ("[/", "/]")}


def mermaid(definition: Mapping[str, Any]) -> str:
    """
    Draw *definition*: what happens as solid arrows, what happens after an error as dotted ones.

    Args:
        definition: Amazon States Language.
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
    """Read a template, write a Markdown file."""
    template, out = map(Path, arguments)
    (definition,) = resolved_definitions(json.loads(template.read_text())).values()
    out.write_text(
        "# The run's state machine\n\n"
        "Drawn by `make graph` from the synthesised template. Dotted: after an error. ⏳: waits for the leader.\n\n"
        f"```mermaid\n{mermaid(definition)}```\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
