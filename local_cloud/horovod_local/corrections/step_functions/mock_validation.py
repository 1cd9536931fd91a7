"""
Validation of TestState's mocked results against the schema of their API.

"STRICT: All required fields must be present, and all present fields must conform to the API's schema. PRESENT: All
present fields must conform to the API's schema" (AWS Step Functions API Reference, "MockInput"). Fields have the names
of the SDK for Java (`horovod_client.aws.java_names`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

from horovod_client.aws.java_names import members

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "character": (str,),
    "blob": (str,),
    "timestamp": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
}
"""Python types of a JSON value, by the type of its shape in the API's model; timestamps and blobs are texts."""


def schema_violation(value: Any, shape: Shape | None, *, required: bool, place: str = "$") -> str | None:
    """
    Return why *value* does not conform to *shape*; None if it does.

    Args:
        value: The mocked result, or a part of it.
        shape: Shape of the API's output; None if it has none.
        required: Whether the required fields must be present (`STRICT`).
        place: Path of *value* in the mocked result.
    """
    if isinstance(shape, StructureShape) or shape is None:
        return _structure_violation(value, shape, required=required, place=place)
    if isinstance(shape, ListShape):
        if not isinstance(value, list):
            return f"{place} must be an array"
        items = ((f"{place}[{index}]", item, shape.member) for index, item in enumerate(value))
    elif isinstance(shape, MapShape):
        if not isinstance(value, Mapping):
            return f"{place} must be an object"
        items = ((f"{place}.{key}", item, shape.value) for key, item in value.items())
    else:
        return _scalar_violation(value, shape, place=place)
    violations = (schema_violation(item, inner, required=required, place=here) for here, item, inner in items)
    return next((violation for violation in violations if violation is not None), None)


def _structure_violation(value: Any, shape: StructureShape | None, *, required: bool, place: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{place} must be an object"
    known = {} if shape is None else members(shape)
    for name, item in value.items():
        if name not in known:
            return f"{place} has no field '{name}' in the API's model"
        violation = schema_violation(item, known[name][1], required=required, place=f"{place}.{name}")
        if violation is not None:
            return violation
    if required and shape is not None:
        for name, (api_name, _) in known.items():
            if api_name in shape.required_members and name not in value:
                return f"{place} lacks the field '{name}', which the API always returns"
    return None


def _scalar_violation(value: Any, shape: Shape, *, place: str) -> str | None:
    wanted = _TYPES.get(shape.type_name, (object,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        return f"{place} must be of type {shape.type_name}, got {value!r}"
    if isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        return f"{place} must be one of {', '.join(shape.enum)}, got {value!r}"
    return None
