"""
States that write the receipt, in the run's workflow or in the clean-up.

There are three states: one reads the ledger page by page, one decides whether there is more to read, and one writes the
receipt to S3. What cannot be read is left out, and `partial` in the receipt says so. After an error the next states
still run.

The states read the same variables in both state machines (see `workflow.definition`), and `$tally`, the sums so far
(see `workflow.receipt_math`), `$bills`, what the provider itself bills (see `IFleetStates.bill`), and
`$receipt_written`, whether the receipt is in S3.
"""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import NO_OUTPUT, NOW, call_aws, jsonata, key_of_the_run
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.workflow.receipt_math import ACCOUNTS, ADD_THE_PAGE, MOST_PAGES, PAGE, unread
from horovod_node import contract

UNREAD_BY_THE_RUN: Final = {
    "tally": unread(contract.PROGRESS_SORT_KEY, contract.NODE_PREFIX),
    "bills": [],
    "receipt_written": False,
}
"""Initial variables in a run, which knows its leader."""
UNREAD_BY_ANOTHER: Final = {
    "tally": unread(contract.PROGRESS_SORT_KEY, contract.LEADER_PREFIX, contract.NODE_PREFIX),
    "bills": [],
    "receipt_written": False,
}
"""Initial variables in the clean-up, which must read the leader from the ledger."""

_TEXTS: Final = {
    contract.NODE: 40,
    contract.INSTANCE_TYPE: 32,
    contract.MARKET: 16,
    contract.ZONE: 32,
    contract.ADDRESS: 46,
    contract.INTERRUPTION: 32,
    contract.IMAGE: 400,
    contract.LIBRARY_VERSION: 32,
    contract.PROGRESS_JSON: 4_000,
}
"""Text attributes that are read from the ledger, with their maximum lengths."""
_MOMENTS: Final = (
    contract.BOOTED_AT,
    contract.PULL_BEGAN_AT,
    contract.PULLED_AT,
    contract.JOINED_AT,
    contract.INSTALL_BEGAN_AT,
    contract.INSTALLED_AT,
    contract.SEEN_AT,
    contract.LEFT_AT,
)
"""Time attributes in epoch seconds, which must be between a day before the run's start and a day from now."""
_MOST_GPUS: Final = 1_000
_DAY: Final = 86_400

_LARGEST_PARTS: Final = {"request": 50_000, "restarts": 40_000, "capacity": 40_000, contract.RING: 10_000}
"""Maximum bytes of parts of the receipt; with nodes, cause and prices it stays below 256 KiB."""
_CAUSE: Final = 4_000
"""Characters that are kept of a cause with more than 16,000 bytes."""

_PRICE: Final = f"$price.{contract.USD_PER_HOUR}"


_FACTS: Final = f"""
  $bills := [$append($left.bills, $bills)];
  $had := [$append($left.fleets.in_receipt, $fleet.in_receipt)];
  $number_in := function($value) {{ $type($value) = 'number' ? $value }};
  $gpus := [$number_in($ring.{contract.GPUS}), 0][0];
  $ranks := [$number_in($trained.ranks), 0][0];
  $passed := $merge([{{'terminated_at': $now()}}, $times]);
  $well := $outcome.succeeded;
  $leads := $gpus > 0 ? $ring.leader.node : $exists($tally.leader) ? $tally.leader : '';
  $trained_seconds := $number_in($trained.{contract.TRAINED_GPU_SECONDS});
  $work := $ranks > 0 ? {{
    'ranks': $ranks,
    'steps': $number_in($trained.steps),
    'repeated': $number_in($trained.{contract.RING}.repeated_steps),
    'trained': $exists($trained_seconds) ? $trained_seconds : $tally.progress.trained
  }} : $tally.progress;
  $work := $count($left.fleets) = 0 ? $work : $merge([$tally.earlier, $work, {{
    'repeated': $sum([$tally.earlier.repeated, $work.repeated]),
    'trained': $sum([$tally.earlier.trained, $work.trained])
  }}]);
  {ACCOUNTS}
  $spent := $exists($bill.usd) ? $bill.usd
    : {_PRICE} > 0 ? $round(($end - $price.{contract.BILLED_FROM}) * {_PRICE} / 3600, 4);
  $bytes := function($value) {{ $length($replace($string($value), /[^ -~]/, '****')) }};
  $parts := $merge([
    {{'request': $request}},
    $count($lost_attempts) > 0 ? {{'restarts': [$lost_attempts]}} : {{}},
    $count($search.log) > 0 ? {{'capacity': [$search.log]}} : {{}},
    $type($trained.{contract.RING}) = 'object' ? {{'{contract.RING}': $trained.{contract.RING}}} : {{}}
  ]);
  $most := {_LARGEST_PARTS};
  $cut := [$each($parts, function($part, $name) {{ $bytes($part) > $lookup($most, $name) ? $name }})];
  $partial := $join([
    $tally.left_out > 0 ? $string($tally.left_out) & ' of the items in the ledger were too large or malformed.' : [],
    $tally.stopped ? 'Of the nodes in the ledger only the newest {MOST_PAGES * PAGE} items were read.' : [],
    $tally.failed ? 'The ledger could not be read to the end.' : [],
    $count($cut) > 0 ? 'Left out because they are too large: ' & $join($cut, ', ') & '.' : []
  ], ' ');
"""
"""Defines what a receipt is made of: the accounts, `$well`, `$work`, `$spent`, `$parts`, `$cut` and `$partial`."""


def _receipt(bucket: s3.IBucket, *, writer: str, execution: str) -> str:
    model = key_of_the_run(contract.model_key)
    return f"""(
  {_FACTS}
  $merge([
    {{
      'version': {contract.RECEIPT_VERSION},
      'written_by': {writer},
      'run': $run,
      'execution': {execution},
      'outcome': $well ? 'succeeded' : 'failed',
      'times': $passed,
      'seconds': $seconds
    }},
    $sift($parts, function($part, $name) {{ $not($name in $cut) }}),
    $partial != '' ? {{'partial': $partial}} : {{}},
    $attempt >= 0 ? {{'attempts': $attempt}} : $exists($tally.attempts) ? {{'attempts': $tally.attempts}} : {{}},
    $exists($fleet.id) and $fleet.id != '' ? {{'fleet': $fleet.id}} : {{}},
    $count($had) > 0 ? {{'engine': $had[-1].engine, 'fleets': $had}} : {{}},
    $well ? {{}} : {{
      'error': $outcome.error,
      'cause': $bytes($outcome.cause) > 16000 ? $substring($outcome.cause, 0, {_CAUSE}) : $outcome.cause
    }},
    $gpus > 0 ? {{'gpus': $gpus}} : {{}},
    $leads != '' ? {{'leader': $leads}} : {{}},
    $work.ranks > 0 ? {{'ranks': $work.ranks, 'steps': $work.steps}} : {{}},
    $there ? {{'nodes': $nodes, 'gpu_seconds': $gpu_seconds}} : {{}},
    $there and $exists($more_nodes) ? {{'more_nodes': $more_nodes}} : {{}},
    $count($bills) > 0 ? {{'jobs': [$bills]}} : {{}},
    $exists($spent) ? {{'cost': $merge([$bill, {{'usd': $spent, 'spent_usd': $spent}}, {_PRICE} > 0 ? {{
      'ceiling_usd': $price.{contract.CEILING_USD}, 'usd_per_hour': {_PRICE}
    }} : {{}}])}} : {{}},
    $gpus > 0 and $exists($request.{contract.MAX_COST_USD}) and {_PRICE} = 0
      ? {{'{contract.NOTICE}': $price.{contract.NOTICE}}} : {{}},
    $well ? {{'model': {{
      'uri': 's3://{bucket.bucket_name}/' & {model}, 'bytes': $saved.bytes, 'files': $saved.files
    }}}} : {{}},
    $count($listings) > 0 ? {{'on_demand_prices': $listings}} : {{}},
    $exists($tally.image) ? {{'image': $tally.image}} : {{}},
    $exists($tally.version) ? {{'library_version': $tally.version}} : {{}}
  ])
)"""


def write_the_receipt(
    scope: Construct,
    *,
    bucket: s3.IBucket,
    training: str,
    ledger: Ledger,
    then: sfn.IChainable,
    writer: str = "'workflow'",
    execution: str = "$states.context.Execution.Id",
) -> sfn.State:
    """
    Build the states that write the receipt, unless `$receipt_written` says that it exists.

    Args:
        scope: Scope of the states.
        bucket: Bucket for receipts.
        training: Name of the training, with which the keys of receipts begin.
        ledger: The training's ledger.
        then: Follows in any case.
        writer: Expression of the receipt's `written_by`.
        execution: Expression of the ARN of the run's execution.
    """
    write = call_aws(
        scope,
        "Write the receipt",
        service="s3",
        action="putObject",
        parameters={
            "Bucket": bucket.bucket_name,
            "Key": jsonata(key_of_the_run(contract.receipt_key)),
            "ContentType": "application/json",
            # Step Functions converts the object to JSON text. It is built here because the Catch of a task also catches
            # errors in its arguments.
            "Body": jsonata(_receipt(bucket, writer=writer, execution=execution)),
        },
        resources=[bucket.arn_for_objects(contract.receipt_key(contract.training_prefix(training) + "*"))],
        assign={"receipt_written": True},
    )
    write.add_catch(then).next(then)
    read = _read_the_nodes(scope, ledger=ledger)
    more = (
        sfn.Choice.jsonata(scope, "More to read?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$receipt_written")), then)
        .when(sfn.Condition.jsonata(jsonata("$tally.unread")), read)
        .otherwise(write)
    )
    read.next(more)
    # After a failed query the next query follows.
    read.add_catch(
        more,
        assign={
            "tally": jsonata(
                """(
  $asks := [$filter($tally.asks, function($ask, $place) { $place > 0 })];
  $merge([$tally, {
    'asks': $asks, 'from': $asks[0].prefix & '~', 'unread': $count($asks) > 0, 'failed': true
  }])
)"""
            )
        },
    )
    return more


def _read_the_nodes(scope: Construct, *, ledger: Ledger) -> sfn.TaskStateBase:
    """
    Build the state that queries one page for the first of `$tally.asks`, newest first, and adds it to `$tally`.

    Nodes write the items that are read here, and a node runs the user's script with its own permissions. So the filter
    admits only items of limited size: a result of more than 256 KiB would end the execution, possibly without a Catch
    (Step Functions Developer Guide, "Handling errors", on `States.DataLimitExceeded`). A filter cannot name key
    attributes, so sort keys, which have up to 1,024 bytes, are read of one item only.

    The first query also has an `ExclusiveStartKey`, behind the last possible key, because one expression serves first
    and later pages. DynamoDB accepts any key within the bounds of the query, whether an item has it or not.
    """
    fleet = "($exists($tally.asks[0].fleet) ? $tally.asks[0].fleet : $fleet.id)"
    partition = {"S": jsonata(f"'{contract.NODES_PREFIX}' & {fleet} & '#' & $run_id")}
    nodes = [name for name in (*_TEXTS, contract.GPUS, *_MOMENTS) if name != contract.PROGRESS_JSON]
    projections = {
        contract.PROGRESS_SORT_KEY: f"#{contract.PROGRESS_JSON}",
        contract.LEADER_PREFIX: f"#{contract.NODE}, #sk",
        contract.NODE_PREFIX: ", ".join(f"#{name}" for name in nodes),
    }
    passes = [
        *(
            f"(attribute_not_exists(#{name}) OR (attribute_type(#{name}, :text) AND size(#{name}) <= :most_{most}))"
            for name, most in _TEXTS.items()
        ),
        *(
            f"(attribute_not_exists(#{name}) OR (attribute_type(#{name}, :number) AND #{name} BETWEEN {bounds}))"
            for name, bounds in {
                contract.GPUS: ":none AND :most_gpus",
                **dict.fromkeys(_MOMENTS, ":first AND :last"),
            }.items()
        ),
    ]
    return call_aws(
        scope,
        "Read the nodes",
        service="dynamodb",
        action="query",
        parameters={
            "TableName": ledger.table.table_name,
            "KeyConditionExpression": "#pk = :pk AND begins_with(#sk, :ask)",
            "FilterExpression": " AND ".join(passes),
            "ProjectionExpression": jsonata(f"$lookup({projections}, $tally.asks[0].prefix)"),
            "ExpressionAttributeNames": {
                "#pk": contract.PARTITION_KEY,
                "#sk": contract.SORT_KEY,
                **{f"#{name}": name for name in (*nodes, contract.PROGRESS_JSON)},
            },
            "ExpressionAttributeValues": {
                ":pk": partition,
                ":ask": {"S": jsonata("$tally.asks[0].prefix")},
                ":text": {"S": "S"},
                ":number": {"S": "N"},
                **{f":most_{most}": {"N": str(most)} for most in _TEXTS.values()},
                ":none": {"N": "0"},
                ":most_gpus": {"N": str(_MOST_GPUS)},
                ":first": {"N": jsonata(f"$string($floor($toMillis($times.started_at) / 1000) - {_DAY})")},
                ":last": {"N": jsonata(f"$string({NOW} + {_DAY})")},
            },
            "ExclusiveStartKey": {
                contract.PARTITION_KEY: partition,
                contract.SORT_KEY: {"S": jsonata("$tally.from")},
            },
            "ConsistentRead": True,
            "ScanIndexForward": False,
            "Limit": jsonata(f"$tally.asks[0].prefix = '{contract.NODE_PREFIX}' ? {PAGE} : 1"),
        },
        resources=[ledger.table.table_arn],
        assign={"tally": jsonata(ADD_THE_PAGE)},
    )
