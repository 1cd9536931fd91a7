"""
Synthesised stacks as a reviewer reads them: YAML in which resources and references have the paths of their constructs.

A change of any property changes the text. What changes without a meaning is left out: hashes in logical ids and of
assets, the names of exports, and what CDK adds to check its own bootstrap stack. State machines and user data have
texts of their own, to which this one only refers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH = 120
"""Columns: what fits in a line is written in one."""
ELSEWHERE = {"DefinitionString": "see *.asl.json", "UserData": "see user-data.sh"}
"""Properties whose values are in snapshots of their own."""
BOOTSTRAP = ("BootstrapVersion", "CheckBootstrapVersion")
"""CDK's parameter and rule for its bootstrap stack, in every stack alike."""
HEAD = """\
# Written by `make snapshots`. <Path/Of/A/Construct> is a Ref, <Path.Attribute> a GetAtt, <Stack:Path> an import.
"""

HASH = re.compile(r"\b[0-9a-f]{64}\b")
_NOT_PLAIN = re.compile(r"^$|^[-?:,\[\]{}#&*!|>'\"%@`\s]|: | #|[:\s]$|[\x00-\x1f]")
_NOT_A_STRING = re.compile(r"[-+.\d][-+.:\d_eExXoO]*|true|false|yes|no|on|off|null|~", re.IGNORECASE)


def template_text(assembly: Path, stack: str) -> str:
    """
    Write the template of a stack as YAML.

    Args:
        assembly: The cloud assembly, as `app.py` writes it.
        stack: Name of the stack.
    """
    template, names = _template(assembly, stack), Names(assembly, stack)
    sections: dict[str, Any] = {section: names.resolve(value) for section, value in template.items()}
    sections["Resources"] = dict(
        sorted(
            (f"{names.path(id)} ({item['Type']})", names.resource(item)) for id, item in template["Resources"].items()
        )
    )
    sections["Parameters"] = {
        names.path(id): parameter for id, parameter in template.get("Parameters", {}).items() if id not in BOOTSTRAP
    }
    sections["Rules"] = {id: rule for id, rule in sections.get("Rules", {}).items() if id not in BOOTSTRAP}
    outputs = template.get("Outputs", {})
    sections["Exports"] = sorted(names.resolve(output["Value"]) for output in outputs.values() if "Export" in output)
    sections["Outputs"] = {
        names.path(id): names.resolve(output) for id, output in outputs.items() if "Export" not in output
    }
    text = HEAD
    for section, value in sections.items():
        if value:
            text += "\n".join(["", f"{section}:", *block(value, "  ", compact=False), ""])
    return text


def user_data_text(assembly: Path, stack: str) -> str:
    """
    Write the user data of the only launch template of a stack, with references as in `template_text`.

    Args:
        assembly: The cloud assembly, as `app.py` writes it.
        stack: Name of the stack.
    """
    (data,) = (
        resource["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]
        for resource in _template(assembly, stack)["Resources"].values()
        if resource["Type"] == "AWS::EC2::LaunchTemplate"
    )
    return str(Names(assembly, stack).resolve(data)) + "\n"


def _template(assembly: Path, stack: str) -> dict[str, Any]:
    template: dict[str, Any] = json.loads((assembly / f"{stack}.template.json").read_text())
    return template


class Names:
    """
    Names that a reader knows: the paths of constructs for logical ids, and exported values for the names of exports.

    Args:
        assembly: The cloud assembly.
        stack: The stack whose template is read.
        template: Another template that the stack's metadata describes, too. Default: the stack's own.
        elsewhere: Properties that are not written, each with the text in its place.
    """

    def __init__(
        self,
        assembly: Path,
        stack: str,
        *,
        template: Mapping[str, Any] | None = None,
        elsewhere: Mapping[str, str] = ELSEWHERE,
    ) -> None:
        self._assembly, self._elsewhere = assembly, elsewhere
        artifact = json.loads((assembly / "manifest.json").read_text())["artifacts"][stack]
        metadata = json.loads((assembly / artifact["additionalMetadataFile"]).read_text())
        root = f"/{artifact['displayName'].partition(' ')[0]}/"
        template = template or _template(assembly, stack)
        known = {id for section in template.values() if isinstance(section, Mapping) for id in section}
        self._paths = {
            entry["data"]: path.removeprefix(root).removesuffix("/Resource")
            for path, entries in metadata.items()
            for entry in entries
            if entry["type"] == "aws:cdk:logicalId" and entry["data"] in known
        }
        assert len({self._paths[id] for id in template["Resources"]}) == len(template["Resources"])
        for id, parameter in template.get("Parameters", {}).items():
            if parameter["Type"].startswith("AWS::SSM::Parameter::Value"):
                self._paths[id] = f"ssm:{parameter['Default']}"

    def path(self, logical_id: str) -> str:
        """Give the path of a resource or parameter inside its stack; a pseudo parameter's own name."""
        return logical_id if logical_id.startswith("AWS::") else self._paths[logical_id]

    def resource(self, resource: Mapping[str, Any]) -> dict[str, Any]:
        """Write a resource: its attributes, such as `DeletionPolicy`, before its properties."""
        attributes = {
            name: value for name, value in resource.items() if name not in ("Type", "Properties", "DependsOn")
        }
        if "DependsOn" in resource:
            attributes["DependsOn"] = sorted(self.path(id) for id in resource["DependsOn"])
        properties = resource.get("Properties", {})
        assert not attributes.keys() & properties.keys()
        written: dict[str, Any] = self.resolve({**attributes, **properties})
        return written

    def resolve(self, value: Any) -> Any:
        """Replace references and joined text by what a reader can read."""
        match value:
            case {"Ref": id}:
                return f"<{self.path(id)}>"
            case {"Fn::GetAtt": [id, attribute]}:
                return f"<{self.path(id)}.{attribute}>"
            case {"Fn::ImportValue": name}:
                return self._imported(str(name))
            case {"Fn::Join": [separator, [*parts]]}:
                return str(separator).join(self._joined(self.resolve(part)) for part in parts)
            case {"Fn::Sub": str(text)}:
                named = re.sub(r"\$\{([^!}][^}]*)\}", lambda name: f"<{self.path(name[1])}>", text)
                return self.resolve(named.replace("${!", "${"))
            case str():
                return HASH.sub("<hash>", value)
            case Mapping():
                return dict(self._item(str(key), item) for key, item in value.items())
            case list():
                return [self.resolve(item) for item in value]
        return value

    @staticmethod
    def _joined(part: Any) -> str:
        return part if isinstance(part, str) else f"<{_flow(part)}>"

    def _imported(self, export: str) -> str:
        """Write the value that another stack exports, with that stack's name."""
        ((stack, value),) = (
            (path.name.removesuffix(".template.json"), output["Value"])
            for path in self._assembly.glob("*.template.json")
            for output in json.loads(path.read_text()).get("Outputs", {}).values()
            if output.get("Export", {}).get("Name") == export
        )
        return f"<{export.partition(':')[0]}:{Names(self._assembly, stack).resolve(value).removeprefix('<')}"

    def _item(self, key: str, value: Any) -> tuple[str, Any]:
        if key in self._elsewhere:
            return key, self._elsewhere[key]
        resolved = self.resolve(value)
        if isinstance(resolved, str) and resolved.startswith(("{", "[")):
            return f"{key} (JSON)", json.loads(resolved)
        return key, resolved


def block(value: Any, indent: str, *, compact: bool = True) -> Iterator[str]:
    """Write a mapping or a sequence; *compact*: an item in one line where it fits."""
    pairs = ((f"{_scalar(key)}:", item) for key, item in value.items()) if isinstance(value, Mapping) else None
    for mark, item in pairs or (("-", item) for item in value):
        nested = isinstance(item, Mapping | list) and bool(item)
        line = f"{indent}{mark} {_flow(item) if nested else _scalar(item)}"
        if not nested or (compact and len(line) <= WIDTH):
            yield line
        elif mark == "-":
            first, *rest = block(item, indent + "  ")
            yield from (f"{indent}- {first.strip()}", *rest)
        else:
            yield from (indent + mark, *block(item, indent + "  "))


def _flow(value: Any) -> str:
    """Write a value in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    text = _scalar(value)
    return json.dumps(value, ensure_ascii=False) if text == value and re.search(r"[,\[\]{}]", text) else text


def _scalar(value: Any) -> str:
    """Write a scalar, in quotes where YAML would take it for something else."""
    if isinstance(value, str) and not _NOT_PLAIN.search(value) and not _NOT_A_STRING.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
