"""
Mocked results of tasks, built from the API's model, with the values that the definition reads.

A result has the members that the API always returns, and those optional members whose names the definition uses. A name
that the API does not have is missing in the result, so an expression that reads it fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

from horovod_client.aws.connection import Fleet
from horovod_client.aws.java_names import SDK_RESOURCE, exception_name, members, operation_model, service_name
from horovod_node import contract

NODE: Final = "i-0123456789abcdef0"
ZONE: Final = "us-east-1a"
TYPE: Final = "g5.xlarge"
STARTED: Final = "2026-01-01T00:00:00.000Z"

TOKEN_ANSWER: Final[dict[str, Any]] = {
    contract.LEADER: {contract.NODE: NODE, contract.GPUS: 1},
    contract.GPUS: 1,
    contract.NODES: [
        {
            contract.NODE: NODE,
            contract.ADDRESS: "10.0.0.1",
            contract.GPUS: 1,
            contract.INSTANCE_TYPE: TYPE,
            contract.ZONE: ZONE,
            contract.MARKET: contract.ON_DEMAND,
        }
    ],
    contract.RANKS: 1,
    contract.STEPS: 100,
    contract.TRAINED_GPU_SECONDS: 60,
    contract.RING: {
        "elastic": False,
        "resets": 0,
        "repeated_steps": 0,
        "smallest": 1,
        "largest": 1,
        "interruptions": [],
    },
    contract.KEY: "runs/run/model.tar.gz",
    contract.BYTES: 1,
    contract.FILES: 1,
}
"""A leader's answer, which has the fields of every task in `horovod_node.contract.tasks`."""

_TEXTS: Final[dict[str, str]] = {
    "LifecycleState": "InService",
    "WeightedCapacity": "1",
    "SpotPrice": "0.5",
    "AvailabilityZone": ZONE,
    "InstanceId": NODE,
    "Output": "{}",
    "PriceList": json.dumps(
        {"terms": {"OnDemand": {"t": {"priceDimensions": {"d": {"pricePerUnit": {"USD": "1.0"}}}}}}}
    ),
}
"""Values of API members that expressions parse or compare, by the names of the members."""

_ATTRIBUTES: Final[dict[str, str]] = {
    contract.NODE: NODE,
    contract.ZONE: ZONE,
    contract.MARKET: contract.ON_DEMAND,
    contract.TIMES_JSON: json.dumps({"started_at": STARTED}),
    contract.PRICES_JSON: "[]",
    contract.RESTARTS_JSON: "[]",
}
"""Values of ledger attributes that expressions parse or compare, by the names of the attributes."""

_READ: Final = re.compile(r"\b([a-z_]\w*)\.([SN])\b")
_GIVEN: Final = re.compile(r"\$states\.input\.(\w+)")
_PATH: Final = re.compile(r"\$states\.result((?:\[\d+\]|\.\w+)+)")
_WORD: Final = re.compile(r"\b[A-Z]\w*")


def example_request(fleet: Fleet) -> dict[str, Any]:
    """
    Create a valid request: the smallest ring, one channel, a ceiling, and prices.

    Args:
        fleet: One of the training's fleets.
    """
    return {
        contract.SOURCE: "s3://data-bucket/sources/source.tar.gz",
        contract.ENTRY_POINT: "train.py",
        contract.GPUS: fleet.gpu_step,
        contract.DATA: {"train": "s3://data-bucket/train/"},
        # Below the ceiling of every training.
        contract.MAX_COST_USD: 0.01,
        contract.ON_DEMAND_PRICES: dict.fromkeys(fleet.types, 1.0),
    }


@dataclass(frozen=True, kw_only=True)
class Mock:
    """
    A mocked result or error of a state's work.

    Args:
        name: Name for people: `a result`, `an empty result`, or the error.
        result: The result; None for an error.
        error: Name of the error; None for a result.
        retries: Number of earlier retries of the state.
        required: Status that TestState must return: `SUCCEEDED`, `RETRIABLE` or `CAUGHT_ERROR`; empty if any is allowed
            and the mock only explores where the state leads.
        index: Index of the retrier or catcher that must handle the error.
    """

    name: str
    result: Any = None
    error: str | None = None
    retries: int = 0
    required: str = ""
    index: int | None = None

    @property
    def argument(self) -> dict[str, Any]:
        """The argument `mock` of TestState."""
        if self.error is not None:
            return {"errorOutput": {"error": self.error, "cause": "mocked"}}
        return {"result": json.dumps(self.result)}


class MockMaker:
    """
    Creates mocked results for the states of one definition.

    Args:
        definition: Definition of the state machine, as JSON text.
        fleet: One of the training's fleets, used in the ledger's items.
    """

    def __init__(self, definition: str, *, fleet: Fleet) -> None:
        instance_type, request = next(iter(fleet.types), TYPE), json.dumps(example_request(fleet))
        self._words = frozenset(_WORD.findall(definition))
        self._read = dict(_READ.findall(definition))
        self._texts = {**_TEXTS, "InstanceType": instance_type, "Input": request}
        self._known = {
            **_ATTRIBUTES,
            contract.FLEET: fleet.id,
            contract.INSTANCE_TYPE: instance_type,
            contract.REQUEST_JSON: request,
        }
        self.answer = {
            **TOKEN_ANSWER,
            contract.NODES: [{**node, contract.INSTANCE_TYPE: instance_type} for node in TOKEN_ANSWER[contract.NODES]],
        }

    def item(self, states: Mapping[str, Any]) -> dict[str, str]:
        """
        Create an item for an iteration of a Map state whose list is empty.

        Args:
            states: States of the iteration.
        """
        names = _GIVEN.findall(json.dumps(states))
        return {name: self._known.get(name, "text") for name in names}

    def results(self, state: Mapping[str, Any], variables: Mapping[str, Any], *, execution: str) -> list[Mock]:
        """
        Create the results of a task: one with every value that the definition reads, and an empty one.

        Args:
            state: The state, in the Amazon States Language.
            variables: Variables at the entry of the state; the ledger's items are consistent with them.
            execution: ARN of the execution in the context.

        Raises:
            ValueError: If botocore has no model of the state's call.
        """
        resource = str(state["Resource"])
        if resource.endswith(".waitForTaskToken"):
            return [Mock(name="an answer", result=self.answer, required="SUCCEEDED")]
        call = SDK_RESOURCE.match(resource)
        operation = None if call is None else operation_model(call[1], call[2])
        if operation is None:
            raise ValueError(f"botocore has no model of the call {resource}")
        shape = operation.output_shape
        if shape is None:
            return [Mock(name="a result", result={}, required="SUCCEEDED")]
        items = self._items(variables, execution)
        whole, empty = (self._value(shape, items=given) for given in (items, None))
        return [
            Mock(name="a result", result=whole, required="SUCCEEDED"),
            *([Mock(name="an empty result", result=empty)] if empty != whole else []),
        ]

    def _value(
        self, shape: Shape, *, items: list[dict[str, Any]] | None, name: str = "", inside: tuple[str, ...] = ()
    ) -> Any:
        if isinstance(shape, StructureShape):
            return {
                key: self._value(inner, items=items, name=key, inside=(*inside, shape.name))
                for key, (api_name, inner) in members(shape).items()
                if inner.name not in inside
                and (api_name in shape.required_members or (items is not None and key in self._words))
            }
        if isinstance(shape, ListShape):
            if items is None:
                return []
            if _holds_attributes(shape.member):
                return items
            return [self._value(shape.member, items=items, name=name, inside=inside)]
        if isinstance(shape, MapShape):
            if items is None:
                return {}
            if _holds_attributes(shape):
                return items[0]
            return {"key": self._value(shape.value, items=items, inside=inside)}
        return self._texts[name] if name in self._texts else _scalar(shape)

    def _items(self, variables: Mapping[str, Any], execution: str) -> list[dict[str, Any]]:
        """Create one item of each kind, each with every attribute that the definition reads."""
        run = str(variables.get("run", "run"))
        now = str(int(datetime.now(UTC).timestamp()) - 60)
        known = {contract.EXECUTION: execution, contract.RUN: run, **self._known}
        attributes: dict[str, Any] = {
            name: {kind: known.get(name, "{}" if name.endswith("_json") else "text")}
            if kind == "S"
            else {kind: now if name.endswith(("_at", "_by", "_from")) else "1"}
            for name, kind in self._read.items()
        }
        queued = {"gpus": {"N": "1"}, contract.EXECUTION: {"S": execution}, contract.SEEN_AT: {"N": now}}
        queue = {f"{contract.PLACE_PREFIX}{run}": {"N": "1"}, f"{contract.WAITER_PREFIX}{run}": {"M": queued}}
        kinds = ("RUN", "LEADER#0001", f"NODE#0001#{NODE}", "PROGRESS", f"BOOT#{NODE}")
        return [{**attributes, **queue, "pk": {"S": "RUN#run"}, "sk": {"S": kind}} for kind in kinds]


def errors(state: Mapping[str, Any]) -> list[Mock]:
    """
    Create one error for each retrier and each catcher of a state, which that handler and no earlier one handles.

    Args:
        state: The state, in the Amazon States Language.
    """
    retriers, catchers = state.get("Retry", ()), state.get("Catch", ())
    mocks = []
    for index, retrier in enumerate(retriers):
        error = _error_for(state, retriers, index)
        if error is not None and retrier.get("MaxAttempts", 3) > 0:
            mocks.append(Mock(name=error, error=error, required="RETRIABLE", index=index))
    most = max((retrier.get("MaxAttempts", 3) for retrier in retriers), default=0)
    for index in range(len(catchers)):
        error = _error_for(state, catchers, index)
        if error is not None:
            mocks.append(Mock(name=error, error=error, retries=most, required="CAUGHT_ERROR", index=index))
    return mocks


def misread(state: Mapping[str, Any]) -> list[str]:
    """
    List members that a task reads from its result but its API does not have; a comparison with one is silently false.

    Args:
        state: The state, in the Amazon States Language.
    """
    call = SDK_RESOURCE.match(str(state.get("Resource", "")))
    operation = None if call is None or call[3] else operation_model(call[1], call[2])
    if operation is None or operation.output_shape is None:
        return []
    wrong = []
    for path in dict.fromkeys(_PATH.findall(json.dumps(state))):
        shape: Shape = operation.output_shape
        for name in re.findall(r"\.(\w+)", path):
            while isinstance(shape, ListShape):
                shape = shape.member
            if not isinstance(shape, StructureShape):
                break  # a map may have any keys, and a text may be JSON
            known = members(shape)
            if name not in known:
                wrong.append(f"it reads $states.result{path}, but {operation.name} returns no '{name}'")
                break
            shape = known[name][1]
    return wrong


def _error_for(state: Mapping[str, Any], handlers: Iterable[Mapping[str, Any]], index: int) -> str | None:
    """Return an error that the handler at *index* handles and no earlier one does; None if none is known."""
    lists: list[set[str]] = [set(handler["ErrorEquals"]) for handler in handlers]
    before: set[str] = set().union(*lists[:index])
    if "States.ALL" in before:
        return None
    named = [name for name in sorted(lists[index]) if name not in ("States.ALL", "States.TaskFailed")]
    candidates = named or [*_service_errors(state), "States.TaskFailed"]
    for name in candidates:
        # States.TaskFailed matches every error except a time-out.
        if name not in before and not ("States.TaskFailed" in before and not name.startswith("States.")):
            return name
    return None


def _service_errors(state: Mapping[str, Any]) -> list[str]:
    call = SDK_RESOURCE.match(str(state.get("Resource", "")))
    operation = None if call is None else operation_model(call[1], call[2])
    if operation is None:
        return []
    service = service_name(str(operation.service_model.service_id))
    return [
        *(f"{service}.{exception_name(shape.name)}" for shape in operation.error_shapes),
        f"{service}.SdkClientException",
    ]


def _holds_attributes(shape: Shape) -> bool:
    """Return whether *shape* is an item of DynamoDB."""
    return isinstance(shape, MapShape) and shape.value.name == "AttributeValue"


def _scalar(shape: Shape) -> Any:
    match shape.type_name:
        case "timestamp":
            return STARTED
        case "boolean":
            return False
        case "integer" | "long" | "float" | "double":
            return 1
    if isinstance(shape, StringShape) and shape.enum:
        return shape.enum[0]
    return "text"
