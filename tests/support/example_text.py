"""
Synthesised examples as a reviewer reads them: what an example itself adds, whole; of this library's constructs, counts.

Their own templates are in the snapshots of `app.py` and `examples/ecs`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from support.template_text import BOOTSTRAP, HEAD, Names, block

COUNTED = ("constructs.Construct", "aws-cdk-lib.pipelines.CodePipeline")
"""Classes whose resources are counted, as the tree of constructs names them; a class in Python has that of its base."""
PRODUCT = ".product.template.json"


def example_text(assembly: Path) -> str:
    """Write all stacks of an assembly, those of its stages included."""
    tree = json.loads((assembly / "tree.json").read_text())["tree"]
    return HEAD + "".join(_stacks(assembly, tree))


def _stacks(assembly: Path, tree: Mapping[str, Any]) -> Iterator[str]:
    artifacts = json.loads((assembly / "manifest.json").read_text())["artifacts"]
    for name, artifact in sorted(artifacts.items()):
        properties = artifact.get("properties", {})
        if artifact["type"] == "cdk:cloud-assembly":
            yield from _stacks(assembly / properties["directoryName"], tree)
        elif artifact["type"] == "aws:cloudformation:stack":
            environment = artifact["environment"].removeprefix("aws://unknown-account/unknown-region")
            node = _node(tree, artifact["displayName"].partition(" ")[0])
            where = f" in {environment}" if environment else ""
            template = json.loads((assembly / properties["templateFile"]).read_text())
            yield _stack(
                f"{properties.get('stackName', name)}{where}", node, template, Names(assembly, name, elsewhere={})
            )
            for path in sorted(assembly.glob(f"{name}*{PRODUCT}")):
                product = json.loads(path.read_text())
                names = Names(assembly, name, template=product, elsewhere={})
                yield _stack(f"product of {name}", node, product, names)


def _stack(title: str, node: Mapping[str, Any], template: Mapping[str, Any], names: Names) -> str:
    counted: dict[str, Counter[str]] = {}
    own: dict[str, Any] = {}
    for id, resource in template["Resources"].items():
        path = names.path(id)
        group = next((path[:end] for end in _slashes(path) if _class(node, path[:end]) in COUNTED), None)
        if group is None:
            own[f"{path} ({resource['Type']})"] = names.resource(resource)
        else:
            counted.setdefault(group, Counter())[resource["Type"]] += 1
    sections = {
        "Constructs": {path: dict(sorted(kinds.items())) for path, kinds in sorted(counted.items())},
        "Resources": dict(sorted(own.items())),
        "Parameters": {
            names.path(id): each for id, each in template.get("Parameters", {}).items() if id not in BOOTSTRAP
        },
        "Outputs": {
            names.path(id): names.resolve(each["Value"])
            for id, each in template.get("Outputs", {}).items()
            if "Export" not in each and "Description" not in each
        },
    }
    lines = [
        f"{section}:\n" + "\n".join(block(value, "  ", compact=False)) for section, value in sections.items() if value
    ]
    return "\n".join(["", f"# {title}", *lines, ""])


def _slashes(path: str) -> Iterator[int]:
    return (position for position, character in enumerate(path) if character == "/")


def _node(node: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    for part in path.split("/"):
        node = node.get("children", {}).get(part, {})
    return node


def _class(node: Mapping[str, Any], path: str) -> str:
    return str(_node(node, path).get("constructInfo", {}).get("fqn", ""))
