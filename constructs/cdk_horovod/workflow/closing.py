"""What every run ends with, whatever happened: the receipt, the run's last stage, the outcome."""

from __future__ import annotations

from collections.abc import Callable

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow.states import CONDITION_FAILED, NO_OUTPUT, RUN_KEY, call_aws, failure, jsonata
from horovod_node import contract

RECEIPT_VERSION = 1


def check_the_model(scope: Construct, *, bucket: s3.IBucket) -> sfn.TaskStateBase:
    """Build the state that looks at the model in S3 itself: the node's word does not make a run succeed."""
    complete = "$states.result.ContentLength > 0 and $states.result.ContentLength = $saved.bytes"
    incomplete = failure(
        contract.ERROR_MODEL_MISSING,
        "'The node uploaded ' & $saved.bytes & ' bytes, but S3 holds ' & $states.result.ContentLength & '.'",
    )["outcome"]
    unwrapped = incomplete["cause"].removeprefix("{% ").removesuffix(" %}")
    return call_aws(
        scope,
        "Check the model",
        service="s3",
        action="headObject",
        iam_action="s3:GetObject",
        parameters={"Bucket": bucket.bucket_name, "Key": jsonata(_key(contract.model_key))},
        resources=[bucket.arn_for_objects(contract.model_key("*"))],
        assign={
            "outcome": {
                "succeeded": jsonata(complete),
                "error": jsonata(f"{complete} ? '' : '{contract.ERROR_MODEL_MISSING}'"),
                "cause": jsonata(f"{complete} ? '' : {unwrapped}"),
            },
        },
    )


def write_the_receipt(scope: Construct, *, bucket: s3.IBucket) -> sfn.TaskStateBase:
    """Build the state that leaves the run's record beside its model; Step Functions writes an object as JSON text."""
    price = f"$price.{contract.USD_PER_HOUR}"
    spent = f"$round(($millis() / 1000 - $price.{contract.BILLED_FROM}) * {price} / 3600, 4)"
    receipt = f"""$merge([
  {{
    'version': {RECEIPT_VERSION},
    'written_by': 'workflow',
    'run': $run,
    'execution': $states.context.Execution.Id,
    'outcome': $outcome.succeeded ? 'succeeded' : 'failed',
    'request': $request,
    'attempts': $attempt,
    'times': $merge([$times, {{'terminated_at': $now()}}])
  }},
  $count($lost) > 0 ? {{'restarts': [$lost]}} : {{}},
  $exists($fleet.id) ? {{'fleet': $fleet.id}} : {{}},
  $count($search.looked) > 0 ? {{'capacity': [$search.looked]}} : {{}},
  $outcome.succeeded ? {{}} : {{'error': $outcome.error, 'cause': $outcome.cause}},
  $ring.gpus > 0 ? {{'gpus': $ring.gpus, 'leader': $ring.leader.node, 'nodes': [$ring.nodes]}} : {{}},
  $trained.ranks > 0 ? {{'ranks': $trained.ranks, 'steps': $trained.steps}} : {{}},
  $exists($trained.{contract.RING}) ? {{'{contract.RING}': $trained.{contract.RING}}} : {{}},
  {price} > 0 ? {{'cost': {{
    'ceiling_usd': $price.{contract.CEILING_USD}, 'usd_per_hour': {price}, 'spent_usd': {spent}
  }}}} : {{}},
  $ring.gpus > 0 and $exists($request.{contract.MAX_COST_USD}) and {price} = 0
    ? {{'{contract.NOTICE}': $price.{contract.NOTICE}}} : {{}},
  $outcome.succeeded ? {{'model': {{
    'uri': 's3://{bucket.bucket_name}/' & {_key(contract.model_key)}, 'bytes': $saved.bytes, 'files': $saved.files
  }}}} : {{}}
])"""
    return _put_receipt(scope, "Write the receipt", bucket=bucket, receipt=receipt)


def leave_a_receipt(
    scope: Construct, *, bucket: s3.IBucket, writer: str, then: sfn.IChainable, of: str = ""
) -> sfn.TaskStateBase:
    """
    Build the states that write the receipt of a run whose own execution cannot any more, unless it is there already.

    They read `$run`, `$fleet.id` and `$execution` (see `describe_the_execution`). An error never keeps *then* from
    following.

    Not PutObject's `IfNoneMatch`: a parameter that Step Functions does not know fails the execution beyond any Catch,
    and whether it knows this one, no document says.

    Args:
        writer: Who writes it, for its reader.
        then: What follows in any case.
        of: Tells these states from those of the same machine that write other receipts.
    """
    error = f"""$execution.status = 'TIMED_OUT' ? '{contract.ERROR_TIMED_OUT}'
      : $execution.error != '' ? $execution.error : '{contract.ERROR_ABORTED}'"""
    cause = """$execution.status = 'TIMED_OUT' ? 'The execution reached its own time limit.'
      : $execution.cause != '' ? $execution.cause : 'The execution was stopped from outside.'"""
    receipt = f"""$merge([
  {{
    'version': {RECEIPT_VERSION},
    'written_by': '{writer}',
    'run': $run,
    'execution': $execution.arn,
    'outcome': 'failed',
    'error': {error},
    'cause': {cause},
    'request': $parse($execution.input),
    'times': {{
      'started_at': $execution.started_at, 'stopped_at': $execution.stopped_at, 'terminated_at': $now()
    }}
  }},
  $fleet.id != '' ? {{'fleet': $fleet.id}} : {{}}
])"""
    write = _put_receipt(scope, f"Write the receipt{of}", bucket=bucket, receipt=receipt)
    write.add_catch(then).next(then)
    look = call_aws(
        scope,
        f"Look for the receipt{of}",
        service="s3",
        action="listObjectsV2",
        iam_action="s3:ListBucket",
        parameters={"Bucket": bucket.bucket_name, "Prefix": jsonata(_key(contract.receipt_key)), "MaxKeys": 1},
        resources=[bucket.bucket_arn],
        assign={"written": jsonata("$states.result.KeyCount > 0")},
    )
    look.add_catch(then).next(
        sfn.Choice.jsonata(scope, f"Receipt there{of}?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$written")), then)
        .otherwise(write)
    )
    return look


def close_the_run(scope: Construct, *, ledger: Ledger) -> sfn.TaskStateBase:
    """Build the state that sets the run's last stage in the ledger."""
    return call_aws(
        scope,
        "Close the run",
        service="dynamodb",
        action="updateItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": RUN_KEY,
            "UpdateExpression": "SET #stage = :stage, #removal = :removal",
            "ExpressionAttributeNames": {"#stage": contract.STAGE, "#removal": contract.TTL_ATTRIBUTE},
            "ExpressionAttributeValues": {
                ":stage": {
                    "S": jsonata(
                        f"$outcome.succeeded ? '{contract.STAGE_SUCCEEDED}' : '{contract.STAGE_FAILED}'",
                    )
                },
                ":removal": {"N": jsonata("$remove_at")},
            },
        },
        resources=[ledger.table.table_arn],
    )


def close_a_stopped_run(scope: Construct, *, ledger: Ledger, name: str = "Close the run") -> sfn.TaskStateBase:
    """Build the state that marks a run as failed whose own execution cannot; one that has a model stays as it is."""
    return call_aws(
        scope,
        name,
        service="dynamodb",
        action="updateItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": RUN_KEY,
            "UpdateExpression": "SET #stage = :failed",
            "ConditionExpression": "attribute_exists(#stage) AND #stage <> :succeeded",
            "ExpressionAttributeNames": {"#stage": contract.STAGE},
            "ExpressionAttributeValues": {
                ":failed": {"S": contract.STAGE_FAILED},
                ":succeeded": {"S": contract.STAGE_SUCCEEDED},
            },
        },
        resources=[ledger.table.table_arn],
        answers=[CONDITION_FAILED],
    )


def outcome(scope: Construct, *, bucket: s3.IBucket) -> sfn.Choice:
    """Build the end: success with the model's address, or failure with the original error and cause."""
    trained = sfn.Succeed.jsonata(
        scope,
        "Trained",
        outputs={
            "run": jsonata("$run"),
            "model": jsonata(f"'s3://{bucket.bucket_name}/' & {_key(contract.model_key)}"),
            "receipt": jsonata(f"'s3://{bucket.bucket_name}/' & {_key(contract.receipt_key)}"),
        },
    )
    failed = sfn.Fail.jsonata(scope, "Failed", error=jsonata("$outcome.error"), cause=jsonata("$outcome.cause"))
    return (
        sfn.Choice.jsonata(scope, "Succeeded?")
        .when(sfn.Condition.jsonata(jsonata("$outcome.succeeded")), trained)
        .otherwise(failed)
    )


def _put_receipt(scope: Construct, name: str, *, bucket: s3.IBucket, receipt: str) -> sfn.TaskStateBase:
    """Build the state that writes the expression *receipt*; Step Functions writes an object as JSON text."""
    return call_aws(
        scope,
        name,
        service="s3",
        action="putObject",
        parameters={
            "Bucket": bucket.bucket_name,
            "Key": jsonata(_key(contract.receipt_key)),
            "ContentType": "application/json",
            "Body": jsonata(receipt),
        },
        resources=[bucket.arn_for_objects(contract.receipt_key("*"))],
    )


def _key(template: Callable[[str], str]) -> str:
    """Write the expression of one of the contract's S3 keys for the run in `$run`."""
    before, after = template("\0").split("\0")
    return f"'{before}' & $run & '{after}'"
