"""DynamoDB's promise to those who write and read at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from horovod_local import LocalCloud

pytestmark = pytest.mark.local

WRITERS = 12
ITEMS = 12


@pytest.mark.slow
def test_writes_are_atomic(cloud: LocalCloud) -> None:
    """Whoever lists items while others write them sees whole items, and of many conditional writers one wins."""
    # GIVEN a table, and what a node writes about itself
    dynamodb = cloud.client("dynamodb")
    dynamodb.create_table(
        TableName="atomic",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )
    names = {f"#{letter}": letter for letter in "abcdefgh"}
    values = {f":{letter}": {"S": letter * 100} for letter in "abcdefgh"}
    assignments = ", ".join(f"#{letter} = :{letter}" for letter in "abcdefgh")

    def write(writer: int) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        for item in range(ITEMS):
            dynamodb.update_item(
                TableName="atomic",
                Key={"pk": {"S": "run"}, "sk": {"S": f"{writer}-{item}"}},
                UpdateExpression=f"SET {assignments}",
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
            )
            answer = dynamodb.query(
                TableName="atomic",
                KeyConditionExpression="pk = :run",
                ExpressionAttributeValues={":run": {"S": "run"}},
            )
            seen += answer["Items"]
        return seen

    def claim(writer: int) -> bool:
        try:
            dynamodb.put_item(
                TableName="atomic",
                Item={"pk": {"S": "leader"}, "sk": {"S": "1"}, "node": {"S": str(writer)}},
                ConditionExpression="attribute_not_exists(pk)",
            )
        except dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    # WHEN many write and list at once
    with ThreadPoolExecutor(WRITERS) as pool:
        seen = [item for items in pool.map(write, range(WRITERS)) for item in items]
        claims = list(pool.map(claim, range(WRITERS)))

    # THEN
    assert [item for item in seen if len(item) != 10] == []
    assert claims.count(True) == 1


KILOBYTE = 1024


@pytest.fixture(scope="module")
def table(cloud: LocalCloud) -> Any:
    """A client, and the table `limits` for it."""
    dynamodb = cloud.client("dynamodb")
    dynamodb.create_table(
        TableName="limits",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )
    return dynamodb


def key(name: str, number: int = 0) -> dict[str, Any]:
    """The key of an item of the partition *name*."""
    return {"pk": {"S": name}, "sk": {"S": f"{number:04}"}}


def setting(kilobytes: int) -> dict[str, Any]:
    """The arguments by which an update adds so much to an item."""
    text = {"S": "x" * kilobytes * KILOBYTE}
    return {"TableName": "limits", "UpdateExpression": "SET w = :w", "ExpressionAttributeValues": {":w": text}}


@pytest.mark.parametrize("in_transaction", [True, False])
def test_updated_items_have_a_limit(table: Any, in_transaction: bool) -> None:
    """An update that makes an item larger than 400 KB is refused, and the item stays as it was."""
    # GIVEN
    name = f"item-{in_transaction}"
    table.put_item(TableName="limits", Item={**key(name), "v": {"S": "x" * 300 * KILOBYTE}})

    def update(kilobytes: int) -> None:
        change = {"Key": key(name), **setting(kilobytes)}
        if in_transaction:
            table.transact_write_items(TransactItems=[{"Update": change}])
        else:
            table.update_item(**change)

    # WHEN
    with pytest.raises(ClientError, match="Item size to update has exceeded the maximum allowed size"):
        update(110)

    # THEN
    assert set(table.get_item(TableName="limits", Key=key(name))["Item"]) == {"pk", "sk", "v"}
    update(90)


def test_transactions_and_expressions_have_limits(table: Any) -> None:
    """A transaction of more than 4 MB or of more than 100 actions is refused, and an expression of more than 4 KB."""
    # GIVEN
    large = [
        {"Put": {"TableName": "limits", "Item": {**key("large", i), "v": {"S": "x" * 390 * KILOBYTE}}}}
        for i in range(11)
    ]
    many = [{"Put": {"TableName": "limits", "Item": key("many", i)}} for i in range(101)]
    long = " OR ".join(["attribute_not_exists(pk)"] * 200)

    # WHEN, THEN
    with pytest.raises(ClientError, match="size has exceeded the maximum allowed size of 4 MB"):
        table.transact_write_items(TransactItems=large)
    with pytest.raises(ClientError, match="less than or equal to 100"):
        table.transact_write_items(TransactItems=many)
    with pytest.raises(ClientError, match="Invalid ConditionExpression: Expression size has exceeded"):
        table.put_item(TableName="limits", Item=key("long"), ConditionExpression=long)
    table.transact_write_items(TransactItems=large[:10])


@pytest.mark.parametrize(
    "extra", [{}, {"ProjectionExpression": "sk"}, {"FilterExpression": "attribute_exists(nobody)"}]
)
def test_pages_end_at_one_megabyte(table: Any, extra: dict[str, str]) -> None:
    """
    A page ends at 1 MB of items as they are stored, before anything is projected or filtered, and says where.

    DynamoDB Developer Guide, "Paginating table query results".
    """
    # GIVEN
    for number in range(5):
        table.put_item(TableName="limits", Item={**key("page", number), "v": {"S": "x" * 300 * KILOBYTE}})

    # WHEN
    query = {
        "TableName": "limits",
        "KeyConditionExpression": "pk = :p",
        "ExpressionAttributeValues": {":p": {"S": "page"}},
    }
    first = table.query(**query, **extra)
    second = table.query(**query, **extra, ExclusiveStartKey=first["LastEvaluatedKey"])

    # THEN
    assert (first["ScannedCount"], first["LastEvaluatedKey"]) == (3, key("page", 2))
    assert (second["ScannedCount"], second.get("LastEvaluatedKey")) == (2, None)
