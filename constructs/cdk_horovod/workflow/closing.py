"""The last states of a run: the check of the model, the run's last stage, the outcome."""

from __future__ import annotations

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.item_update import update_item
from cdk_horovod.asl.states import NOW, RUN_KEY, call_aws, failure, jsonata, key_of_the_run
from cdk_horovod.resources.ledger import Ledger
from horovod_node import contract


def check_the_model(scope: Construct, *, bucket: s3.IBucket, training: str) -> sfn.TaskStateBase:
    """Build the state that checks the model in S3, because a node's answer alone does not make a run succeed."""
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
        parameters={"Bucket": bucket.bucket_name, "Key": jsonata(key_of_the_run(contract.model_key))},
        resources=[bucket.arn_for_objects(contract.model_key(contract.training_prefix(training) + "*"))],
        assign={
            "outcome": {
                "succeeded": jsonata(complete),
                "error": jsonata(f"{complete} ? '' : '{contract.ERROR_MODEL_MISSING}'"),
                "cause": jsonata(f"{complete} ? '' : {unwrapped}"),
            },
        },
    )


def close_the_run(scope: Construct, *, ledger: Ledger) -> sfn.TaskStateBase:
    """Build the state that records the run's last stage in the ledger, and when its receipt was written."""
    return update_item(
        scope,
        "Close the run",
        ledger=ledger,
        key=RUN_KEY,
        update="SET #stage = :stage, #removal = :removal, #written = :written",
        names={"#stage": contract.STAGE, "#removal": contract.TTL_ATTRIBUTE, "#written": contract.RECEIPT_AT},
        values={
            ":stage": {"S": jsonata(f"$outcome.succeeded ? '{contract.STAGE_SUCCEEDED}' : '{contract.STAGE_FAILED}'")},
            ":removal": {"N": jsonata("$remove_at")},
            ":written": {"N": jsonata(f"$receipt_written ? $string({NOW}) : '0'")},
        },
    )


def close_a_stopped_run(scope: Construct, *, ledger: Ledger) -> sfn.TaskStateBase:
    """Build the state that marks a stopped run as failed, unless it has already succeeded."""
    return update_item(
        scope,
        "Close the run",
        ledger=ledger,
        key=RUN_KEY,
        update="SET #stage = :failed, #written = :written",
        condition="attribute_exists(#stage) AND #stage <> :succeeded",
        names={"#stage": contract.STAGE, "#written": contract.RECEIPT_AT},
        values={
            ":failed": {"S": contract.STAGE_FAILED},
            ":succeeded": {"S": contract.STAGE_SUCCEEDED},
            ":written": {"N": jsonata(f"$receipt_written ? $string({NOW}) : '0'")},
        },
    )


def outcome(scope: Construct, *, bucket: s3.IBucket) -> sfn.Choice:
    """Build the last states: Succeed with the URI of the model, or Fail with the original error and cause."""
    trained = sfn.Succeed.jsonata(
        scope,
        "Trained",
        outputs={
            "run": jsonata("$run"),
            "model": jsonata(f"'s3://{bucket.bucket_name}/' & {key_of_the_run(contract.model_key)}"),
            "receipt": jsonata(f"'s3://{bucket.bucket_name}/' & {key_of_the_run(contract.receipt_key)}"),
        },
    )
    failed = sfn.Fail.jsonata(scope, "Failed", error=jsonata("$outcome.error"), cause=jsonata("$outcome.cause"))
    return (
        sfn.Choice.jsonata(scope, "Succeeded?")
        .when(sfn.Condition.jsonata(jsonata("$outcome.succeeded")), trained)
        .otherwise(failed)
    )
