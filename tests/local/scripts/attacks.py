"""
Tries what one run may not do to another, with the permissions of its node, and prints what becomes of each try.

--targets: a JSON object: `table`, `models`, `data` (names), `fleet`, `run_id` (of the run under attack), `own_fleet`,
`source` (key of its packaged script).
"""

import argparse
import json
import os
import pathlib
import time

import boto3
from botocore.exceptions import ClientError

from horovod_node import contract, steps

parser = argparse.ArgumentParser()
parser.add_argument("--targets", type=json.loads)
on = parser.parse_args().targets
steps.report(1)

dynamodb, s3 = boto3.client("dynamodb"), boto3.client("s3")
fleet, run_id, table = on["fleet"], on["run_id"], on["table"]


def named(key: tuple[str, str]) -> dict[str, dict[str, str]]:
    return {contract.PARTITION_KEY: {"S": key[0]}, contract.SORT_KEY: {"S": key[1]}}


def update(key: tuple[str, str], attribute: str, value: dict[str, str]) -> None:
    dynamodb.update_item(
        TableName=table,
        Key=named(key),
        UpdateExpression="SET #a = :v",
        ExpressionAttributeNames={"#a": attribute},
        ExpressionAttributeValues={":v": value},
    )


def put(key: tuple[str, str], **attributes: str) -> None:
    dynamodb.put_item(TableName=table, Item={**named(key), **{name: {"S": text} for name, text in attributes.items()}})


def query(partition: str) -> None:
    dynamodb.query(
        TableName=table,
        KeyConditionExpression="#pk = :pk",
        ExpressionAttributeNames={"#pk": contract.PARTITION_KEY},
        ExpressionAttributeValues={":pk": {"S": partition}},
    )


def answer_for_the_other() -> None:
    item = dynamodb.get_item(TableName=table, Key=named(contract.task_key(fleet, run_id, 1, contract.TASK_TRAIN)))
    boto3.client("stepfunctions").send_task_failure(
        taskToken=item["Item"][contract.TOKEN]["S"], error="Forged", cause="by another run"
    )


run_key, own_lease, lease = contract.run_key(run_id), contract.lease_key(on["own_fleet"]), contract.lease_key(fleet)
another = f"another/{run_id.partition('/')[2]}"
far = {"N": "9999999999"}
tries = {
    "set its ceiling": lambda: update(run_key, contract.CEILING_AT, {"N": "1"}),
    "rewrite its request": lambda: update(run_key, contract.REQUEST_JSON, {"S": "{}"}),
    "write beside its item": lambda: put((run_key[0], "RECEIPT"), receipt_json="{}"),
    "write its progress": lambda: put(contract.progress_key(fleet, run_id), progress_json="{}"),
    "write a node of it": lambda: put(contract.node_key(fleet, run_id, 1, "i-forged"), node="i-forged"),
    "lead it": lambda: put(contract.leader_key(fleet, run_id, 2), node="i-forged"),
    "see its tokens": lambda: query(contract.secrets_partition(fleet, run_id)),
    "see its nodes": lambda: query(contract.nodes_partition(fleet, run_id)),
    "answer its token": answer_for_the_other,
    "renew its lease": lambda: update(lease, contract.EXPIRES_AT, far),
    "take its lease": lambda: update(lease, contract.RUN, {"S": "mine"}),
    "take the own lease": lambda: update(own_lease, contract.RUN_ID, {"S": "mine"}),
    "lock a free fleet": lambda: update(contract.lease_key("free"), contract.EXPIRES_AT, far),
    "delete its lease": lambda: dynamodb.delete_item(TableName=table, Key=named(lease)),
    "see the ledger": lambda: dynamodb.scan(TableName=table, Limit=1),
    "replace its model": lambda: s3.put_object(Bucket=on["models"], Key=contract.model_key(run_id), Body=b"forged"),
    "write its receipt": lambda: s3.put_object(Bucket=on["models"], Key=contract.receipt_key(run_id), Body=b"{}"),
    "store another training's model": lambda: s3.put_object(
        Bucket=on["models"], Key=contract.model_key(another), Body=b"forged", IfNoneMatch="*"
    ),
    "store another training's checkpoint": lambda: s3.put_object(
        Bucket=on["models"],
        Key=f"{contract.checkpoint_prefix(another, 1, 1)}{contract.CHECKPOINT_MANIFEST}",
        Body=b"{}",
    ),
    "read another training's model": lambda: s3.get_object(Bucket=on["models"], Key=contract.model_key(another)),
    "replace its script": lambda: s3.put_object(Bucket=on["data"], Key=on["source"], Body=b"forged"),
}
for number, (name, attack) in enumerate(tries.items(), start=2):
    steps.report(number)
    try:
        attack()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        # DynamoDB says AccessDeniedException, S3 AccessDenied.
        print(f"tried: {'denied' if code.startswith('AccessDenied') else code}: {name}", flush=True)
    else:
        print(f"tried: done: {name}", flush=True)
time.sleep(1)
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "model.txt").write_text("nothing")
