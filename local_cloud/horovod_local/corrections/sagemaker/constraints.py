"""
The constraints of the API's model, which SageMaker enforces and moto does not: required members, lengths, numbers,
patterns and enumerations.

Source: the model that botocore publishes. The messages have the form of SageMaker's own ("1 validation error detected:
Value … at … failed to satisfy constraint: …").
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import botocore.session
from botocore.model import ListShape, MapShape, Shape, StructureShape

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "timestamp": (int, float),
}
"""Python types of a JSON value, by the type of its shape."""
_JAVA_CLASSES: Final = {r"\p{L}\p{Z}\p{N}": r"\w\s", r"\p{Alnum}": "a-zA-Z0-9"}
"""Character classes of Java, in which the model's patterns are written, and those of Python that match as much."""


def broken_constraints(operation: str, request: Mapping[str, Any]) -> str:
    """
    Say which constraints a request breaks; '' if none.

    Args:
        operation: Name of the operation, such as `CreateTrainingJob`.
        request: Its parameters.
    """
    found = list(_broken(request, _model().operation_model(operation).input_shape, place=""))
    if not found:
        return ""
    plural = "s" if len(found) > 1 else ""
    return f"{len(found)} validation error{plural} detected: {'; '.join(found)}"


@functools.cache
def _model() -> Any:
    return botocore.session.get_session().get_service_model("sagemaker")


def _broken(value: Any, shape: Shape, *, place: str) -> Iterator[str]:
    wanted = _TYPES.get(shape.type_name, (object,))
    fits = isinstance(value, wanted) and not (isinstance(value, bool) and bool not in wanted)
    if not fits:
        yield _failed(value, place, f"Member must be of type {shape.type_name}")
        return
    yield from _broken_here(value, shape, place=place)
    if isinstance(shape, StructureShape):
        for name, member in shape.members.items():
            inner = f"{place}.{_camel(name)}".removeprefix(".")
            if value.get(name) is not None:
                yield from _broken(value[name], member, place=inner)
            elif name in shape.required_members:
                yield _failed(None, inner, "Member must not be null")
    elif isinstance(shape, ListShape):
        for index, item in enumerate(value, start=1):
            yield from _broken(item, shape.member, place=f"{place}.{index}.member")
    elif isinstance(shape, MapShape):
        for key, item in value.items():
            yield from _broken(key, shape.key, place=f"{place}.{key}.key")
            yield from _broken(item, shape.value, place=f"{place}.{key}.value")


def _broken_here(value: Any, shape: Shape, *, place: str) -> Iterator[str]:
    """Check the constraints of one shape, without those of its members."""
    limits = shape.metadata
    is_number = isinstance(value, int | float)
    size = value if is_number else len(value)
    what = "value" if is_number else "length"
    if "min" in limits and size < limits["min"]:
        yield _failed(value, place, f"Member must have {what} greater than or equal to {limits['min']}")
    if "max" in limits and size > limits["max"]:
        yield _failed(value, place, f"Member must have {what} less than or equal to {limits['max']}")
    if limits.get("enum") and value not in limits["enum"]:
        yield _failed(value, place, f"Member must satisfy enum value set: [{', '.join(limits['enum'])}]")
    if limits.get("pattern") and not _compiled(limits["pattern"]).fullmatch(value):
        yield _failed(value, place, f"Member must satisfy regular expression pattern: {limits['pattern']}")


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    for java, python in _JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern)


def _failed(value: Any, place: str, constraint: str) -> str:
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{place}' failed to satisfy constraint: {constraint}"


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]
