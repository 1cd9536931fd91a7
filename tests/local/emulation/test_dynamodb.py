"""DynamoDB's promise to those who write and read at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from horovod_local import LocalCloud

pytestmark = pytest.mark.local

WRITERS = 12
ITEMS = 12


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
