"""
DynamoDB, with the partition keys and attributes of each request.

Sources: DynamoDB Developer Guide, "Using IAM policy conditions for fine-grained access control" (`LeadingKeys` holds
the partition keys, `Attributes` the top-level attributes that a request names, those of the key included) and "Amazon
DynamoDB Transactions: How it works" (a transaction needs the permission of each of its items' actions).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from horovod_local.permissions.requests.service_request import (
    PermissionRule,
    RequiredPermission,
    ServiceRequest,
    without_resource,
)

_EXPRESSIONS: Final = (
    "ConditionExpression",
    "FilterExpression",
    "KeyConditionExpression",
    "ProjectionExpression",
    "UpdateExpression",
)
_WORDS: Final = frozenset(
    [
        "ADD",
        "AND",
        "ATTRIBUTE_EXISTS",
        "ATTRIBUTE_NOT_EXISTS",
        "ATTRIBUTE_TYPE",
        "BEGINS_WITH",
        "BETWEEN",
        "CONTAINS",
        "DELETE",
        "IF_NOT_EXISTS",
        "IN",
        "LIST_APPEND",
        "NOT",
        "OR",
        "REMOVE",
        "SET",
        "SIZE",
    ]
)
"""Reserved words of expressions; every other bare word is the name of an attribute."""
_NAME: Final = re.compile(r"(?<![:.\w])(#?[A-Za-z_]\w*)")
_EQUAL: Final = re.compile(r"(#?[A-Za-z_]\w*)\s*=\s*(:\w+)")
_TRANSACTED: Final = {
    "ConditionCheck": "ConditionCheckItem",
    "Delete": "DeleteItem",
    "Get": "GetItem",
    "Put": "PutItem",
    "Update": "UpdateItem",
}


def _table(request: ServiceRequest, name: str) -> tuple[str, str]:
    """Return a table's ARN and the name of its partition key."""
    short = name.rpartition("/")[2]
    table = request.backend("dynamodb").tables.get(short)
    arn = name if name.startswith("arn:") else request.arn("dynamodb", f"table/{name}")
    return arn, table.hash_key_attr if table is not None else ""


def _one(
    request: ServiceRequest, given: Mapping[str, Any], action: str, **context: tuple[str, ...]
) -> RequiredPermission:
    arn, partition_key = _table(request, given["TableName"])
    item = given.get("Item") or given.get("Key") or {}
    keys = [_text(item[partition_key])] if partition_key in item else _queried(given, partition_key)
    attributes = sorted({*item, *_named(given)})
    found = {"dynamodb:leadingkeys": tuple(keys), "dynamodb:attributes": tuple(attributes), **context}
    for parameter in ("ReturnValues", "Select"):
        if parameter in given:
            found[f"dynamodb:{parameter.lower()}"] = (given[parameter],)
    index = f"/index/{given['IndexName']}" if given.get("IndexName") else ""
    return RequiredPermission(
        action=f"dynamodb:{action}", resource=arn + index, context={key: value for key, value in found.items() if value}
    )


def _queried(given: Mapping[str, Any], partition_key: str) -> list[str]:
    """Return the values of the partition key in a Query."""
    conditions = given.get("KeyConditions") or {}
    if partition_key in conditions:
        return [_text(value) for value in conditions[partition_key]["AttributeValueList"]]
    names, values = given.get("ExpressionAttributeNames") or {}, given.get("ExpressionAttributeValues") or {}
    return [
        _text(values[value])
        for name, value in _EQUAL.findall(given.get("KeyConditionExpression") or "")
        if names.get(name, name) == partition_key and value in values
    ]


def _named(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the top-level attributes that a request names outside its key or item."""
    names = given.get("ExpressionAttributeNames") or {}
    for parameter in _EXPRESSIONS:
        for name in _NAME.findall(given.get(parameter) or ""):
            if name.upper() not in _WORDS:
                yield names.get(name, name)
    yield from given.get("AttributesToGet") or ()
    for parameter in ("AttributeUpdates", "Expected", "KeyConditions", "QueryFilter", "ScanFilter"):
        yield from given.get(parameter) or {}


def _text(value: Mapping[str, Any]) -> str:
    return str(next(iter(value.values())))


def _item(action: str) -> PermissionRule:
    return lambda request: (_one(request, request.parameters, action),)


def _transaction(request: ServiceRequest) -> Iterable[RequiredPermission]:
    for item in request.parameters["TransactItems"]:
        for kind, given in item.items():
            yield _one(request, given, _TRANSACTED[kind], **{"dynamodb:enclosingoperation": (request.call.operation,)})


def _batch_get(request: ServiceRequest) -> Iterable[RequiredPermission]:
    for table, given in request.parameters["RequestItems"].items():
        yield _batch(request, table, given["Keys"], "BatchGetItem", _named(given))


def _batch_write(request: ServiceRequest) -> Iterable[RequiredPermission]:
    for table, writes in request.parameters["RequestItems"].items():
        items = [given.get("Item") or given["Key"] for write in writes for given in write.values()]
        yield _batch(request, table, items, "BatchWriteItem", ())


def _batch(
    request: ServiceRequest, table: str, items: Iterable[Mapping[str, Any]], action: str, named: Iterable[str]
) -> RequiredPermission:
    arn, partition_key = _table(request, table)
    keys = tuple(_text(item[partition_key]) for item in items if partition_key in item)
    attributes = sorted({name for item in items for name in item} | set(named))
    return RequiredPermission(
        action=f"dynamodb:{action}",
        resource=arn,
        context={"dynamodb:leadingkeys": keys, "dynamodb:attributes": tuple(attributes)},
    )


def _on_table(action: str) -> PermissionRule:
    return lambda request: (
        RequiredPermission(action=f"dynamodb:{action}", resource=_table(request, request.parameters["TableName"])[0]),
    )


RULES: Final[dict[str, PermissionRule]] = {
    **{name: _item(name) for name in ("DeleteItem", "GetItem", "PutItem", "Query", "Scan", "UpdateItem")},
    "BatchGetItem": _batch_get,
    "BatchWriteItem": _batch_write,
    "DescribeTable": _on_table("DescribeTable"),
    "ListTables": without_resource("dynamodb:ListTables"),
    "TransactGetItems": _transaction,
    "TransactWriteItems": _transaction,
}
