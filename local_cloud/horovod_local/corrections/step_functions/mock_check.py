"""
Whether a mocked result is one that its API could give, as TestState checks it.

"STRICT: All required fields must be present, and all present fields must conform to the API's schema. PRESENT: All
present fields must conform to the API's schema" (AWS Step Functions API Reference, "MockInput"). The fields have the
names of the SDK for Java (`horovod_client.aws.java_names`).
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
"""What JSON has where a shape of the API has a type; times and bodies are texts."""


def why_not_of(value: Any, shape: Shape | None, *, required: bool, place: str = "$") -> str | None:
    """
    Say why *value* does not conform to *shape*; None if it does.

    Args:
        value: The mocked result, or a part of it.
        shape: What the API gives; None when it gives nothing.
        required: Whether fields that the API always gives must be there.
        place: Of the value in the mocked result.
    """
    if isinstance(shape, StructureShape) or shape is None:
        return _why_no_structure(value, shape, required=required, place=place)
    if isinstance(shape, ListShape):
        if not isinstance(value, list):
            return f"{place} must be an array"
        items = ((f"{place}[{index}]", item, shape.member) for index, item in enumerate(value))
    elif isinstance(shape, MapShape):
        if not isinstance(value, Mapping):
            return f"{place} must be an object"
        items = ((f"{place}.{key}", item, shape.value) for key, item in value.items())
    else:
        return _why_no_scalar(value, shape, place=place)
    whys = (why_not_of(item, inner, required=required, place=here) for here, item, inner in items)
    return next((why for why in whys if why is not None), None)


def _why_no_structure(value: Any, shape: StructureShape | None, *, required: bool, place: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{place} must be an object"
    known = {} if shape is None else members(shape)
    for name, item in value.items():
        if name not in known:
            return f"{place} has no field '{name}' in the API's model"
        why = why_not_of(item, known[name][1], required=required, place=f"{place}.{name}")
        if why is not None:
            return why
    if required and shape is not None:
        for name, (api_name, _) in known.items():
            if api_name in shape.required_members and name not in value:
                return f"{place} lacks the field '{name}', which the API always gives"
    return None


def _why_no_scalar(value: Any, shape: Shape, *, place: str) -> str | None:
    wanted = _TYPES.get(shape.type_name, (object,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        return f"{place} must be of type {shape.type_name}, got {value!r}"
    if isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        return f"{place} must be one of {', '.join(shape.enum)}, got {value!r}"
    return None
