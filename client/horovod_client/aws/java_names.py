"""
The names that Step Functions uses for calls to other services: those of the AWS SDK for Java, version 2.

"Parameters in Step Functions are expressed in PascalCase, even if the native service API is in camelCase" (Step
Functions Developer Guide, "Learning to use AWS service SDK integrations"). The PascalCase is that of the SDK for
Java, whose classes Step Functions reads and writes: working published definitions use `DbInstanceIdentifier` and
`DbInstance.DbInstanceStatus`, where the API has `DBInstanceIdentifier`. In an attribute of DynamoDB, `BOOL` is refused
and `Bool` is accepted. The SDK's rules are in its generator (aws-sdk-java-v2: `Utils.unCapitalize`,
`DefaultNamingStrategy.rewriteInvalidMemberName` and `getExceptionName`, `CodegenNamingUtils.splitOnWordBoundaries`).

Everything here is a pure function of botocore's service models, which AWS publishes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import botocore.session
from botocore import xform_name
from botocore.exceptions import UnknownServiceError
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

SDK_RESOURCE: Final = re.compile(r"^arn:aws[\w-]*:states:::aws-sdk:(\w+):(\w+)(?:\.(\w+))?$")
"""Resource of a state with an SDK integration: service, action, integration pattern."""

_BOTO_NAMES: Final = {"sfn": "stepfunctions", "cloudwatchlogs": "logs", "eventbridge": "events"}
"""Services with another name in the SDK for Java, and so in Step Functions, than in boto3."""
_RENAMED: Final = {("AttributeValue", "NULL"): "Nul"}
"""Names that a service's configuration of the generator changes (services/dynamodb, `customization.config`)."""
_RESERVED: Final = re.compile(
    "(?i:abstract|assert|boolean|break|byte|case|catch|char|class|const|continue|default|do|double|else|enum|extends|"
    "false|final|finally|float|for|goto|if|implements|import|instanceof|int|interface|long|native|new|null|package|"
    "private|protected|public|return|short|static|strictfp|super|switch|synchronized|this|throw|throws|transient|true|"
    "try|void|volatile|while)|equals|finalize|getClass|hashCode|notify|notifyAll|toString|wait|builder|sdkFields|"
    "toBuilder|overrideConfiguration|sdkHttpResponse"
)
"""Keywords of Java, and methods of all classes of the SDK: members with these names get the suffix `Value`."""


def member_name(name: str, *, of: str = "") -> str:
    """
    Return Step Functions' name of the member *name* of an API, in arguments and in results.

    Leading capitals become lower case, except the last one before a small letter; then the first letter becomes upper
    case: `VPCZoneIdentifier` becomes `VpcZoneIdentifier`, `executionArn` becomes `ExecutionArn`, `ETag` stays `ETag`.

    Args:
        name: As in the API's model.
        of: Name of the member's structure in the model, because some names change only in one structure. Default: any.
    """
    if (of, name) in _RENAMED:
        return _RENAMED[of, name]
    first = re.match(r"[A-Z]+(?![a-z])|.", name)
    run = first[0] if first else ""
    java = run.lower() + name[len(run) :]
    if _RESERVED.fullmatch(java):
        java += "Value"
    return java[:1].upper() + java[1:]


def exception_name(shape: str) -> str:
    """Return Step Functions' name of an API's error, without the service: `DbInstanceNotFoundException`."""
    for ending in ("Fault", "Exception"):
        if shape.endswith(ending):
            return _pascal(shape.removesuffix(ending)) + "Exception"
    return _pascal(shape) + "Exception"


def service_name(service_id: str) -> str:
    """
    Return Step Functions' name of the service of an error, such as `DynamoDb` or `AutoScaling`.

    Args:
        service_id: The `serviceId` of the service's model, such as `DynamoDB` or `Auto Scaling`.
    """
    return re.sub(r"^(Amazon|Aws)|Service$", "", _pascal(service_id))


def service_model(service: str) -> ServiceModel | None:
    """Find the model of a service by its name in a state's resource, such as `sfn`; None if there is none."""
    return _service_model(_BOTO_NAMES.get(service, service))


def operation_model(service: str, action: str) -> OperationModel | None:
    """Find an operation by the names of service and action in Step Functions or boto3; None if there is none."""
    model = service_model(service)
    if model is None:
        return None
    names = {name.lower(): name for name in model.operation_names} | {
        xform_name(name): name for name in model.operation_names
    }
    name = names.get(action.lower())
    return None if name is None else model.operation_model(name)


def members(shape: Shape) -> dict[str, tuple[str, Shape]]:
    """Map Step Functions' names of a structure's members to their API names and shapes; empty for other shapes."""
    if not isinstance(shape, StructureShape):
        return {}
    return {member_name(name, of=shape.name): (name, inner) for name, inner in shape.members.items()}


def problems(value: Any, shape: Shape | None, place: str = "") -> Iterator[str]:
    """
    Report what Step Functions refuses in the arguments of a state: unknown fields, and missing required ones.

    Args:
        value: The arguments in the definition; values of expressions are unknown and not checked.
        shape: Shape of the API's input.
        place: Path of the arguments in the definition, such as `/States/Start nodes/Arguments`.
    """
    if isinstance(value, list) and isinstance(shape, ListShape):
        for index, item in enumerate(value):
            yield from problems(item, shape.member, f"{place}[{index}]")
    elif isinstance(value, Mapping) and isinstance(shape, MapShape):
        for key, item in value.items():
            yield from problems(item, shape.value, f"{place}/{key}")
    elif isinstance(value, Mapping) and isinstance(shape, StructureShape | None):
        known = {} if shape is None else members(shape)
        # In JSONPath, the name of a field whose value is a path ends with ".$".
        given = {key.removesuffix(".$"): item for key, item in value.items()}
        for name, item in given.items():
            if name in known:
                yield from problems(item, known[name][1], f"{place}/{name}")
            else:
                yield f'The field "{name}" is not supported by Step Functions at {place}'
        for name, (api_name, _) in known.items():
            if shape is not None and api_name in shape.required_members and name not in given:
                yield f'The field "{name}" is required but was missing at {place}'


def refusals(definition: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """
    Report the SDK calls because of which Step Functions refuses to create a state machine from *definition*.

    Args:
        definition: In the Amazon States Language.
        place: Path of *definition* in an outer one. Default: it is the outermost.
    """
    for name, state in definition.get("States", {}).items():
        here = f"{place}/States/{name}"
        resource = state.get("Resource")
        call = SDK_RESOURCE.match(resource) if isinstance(resource, str) else None
        if call is not None:
            operation = operation_model(call[1], call[2])
            field = "Arguments" if "Arguments" in state else "Parameters"
            if operation is None or call[2] != call[2][:1].lower() + call[2][1:]:
                yield (
                    f"The resource provided {resource} is not recognized. The value is not a valid resource ARN, or "
                    f"the resource is not available in this region. at {here}/Resource"
                )
            else:
                yield from problems(state.get(field, {}), operation.input_shape, f"{here}/{field}")
        for inner in ("ItemProcessor", "Iterator"):
            yield from refusals(state.get(inner, {}), f"{here}/{inner}")
        for index, branch in enumerate(state.get("Branches", ())):
            yield from refusals(branch, f"{here}/Branches[{index}]")


def in_the_api(value: Any, shape: Shape | None) -> Any:
    """Rename the members of Step Functions' arguments to those of the API; unknown members are kept."""
    if isinstance(value, Mapping) and isinstance(shape, StructureShape):
        known = members(shape)
        known |= {name: (name, inner) for name, inner in shape.members.items()}
        renamed = {}
        for key, item in value.items():
            name, inner = known.get(key, (key, None))
            renamed[name] = in_the_api(item, inner)
        return renamed
    return _inside(value, shape, in_the_api)


def in_step_functions(value: Any, shape: Shape | None) -> Any:
    """Rename the members of an API's answer to those of Step Functions' result."""
    if isinstance(value, Mapping) and isinstance(shape, StructureShape):
        return {
            member_name(key, of=shape.name): in_step_functions(item, shape.members.get(key))
            for key, item in value.items()
        }
    return _inside(value, shape, in_step_functions)


def _inside(value: Any, shape: Shape | None, rename: Any) -> Any:
    if isinstance(value, list) and isinstance(shape, ListShape):
        return [rename(item, shape.member) for item in value]
    if isinstance(value, Mapping) and isinstance(shape, MapShape):
        return {key: rename(item, shape.value) for key, item in value.items()}
    return value


def _pascal(text: str) -> str:
    """Write *text* as the SDK for Java names classes: "Auto Scaling", "DynamoDB", "DBInstanceNotFound"."""
    text = re.sub(r"[^A-Za-z0-9]+", " ", text)
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-zA-Z0-9])", " ", text)
    text = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", text)
    text = re.sub(r"([0-9])([a-zA-Z])", r"\1 \2", text)
    return "".join(word.lower().capitalize() for word in text.split())


@functools.cache
def _service_model(name: str) -> ServiceModel | None:
    try:
        return botocore.session.get_session().get_service_model(name)
    except UnknownServiceError:
        return None
