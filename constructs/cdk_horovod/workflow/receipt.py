"""
The receipt, by whoever writes it: the run's own workflow, or the clean-up or the reaper in its place.

Four states: read the nodes, make the receipt out, write it to S3, keep it in the ledger; who writes it in the run's
place reads the run's own item before. What cannot be read is left out, and no error keeps what follows from following.

`$ledger` is what was read of the nodes: `nodes` (`node`, `gpus`, …, and as epoch seconds `from`, `joined`, `seen`,
`booted`, `pull_began`, `pulled`), `progress` and `leader`. `$record` is what was read of the run: `times`, `prices`,
`restarts`, and of a run with a ceiling `usd_per_hour` and `ceiling_usd`.
"""

from __future__ import annotations

from typing import Any

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow.accounts import ACCOUNTS
from cdk_horovod.workflow.states import (
    NO_OUTPUT,
    NODES_PARTITION,
    NOW,
    RUN_KEY,
    RUN_PARTITION,
    assign_safely,
    call_aws,
    jsonata,
    key_of_the_run,
)
from horovod_node import contract

MOST_ITEMS = 200
"""Items of a run that its receipt reads, the newest kinds first: each has up to a kilobyte, and a state 256 KiB."""
KEPT_SECONDS = 30 * 86_400
"""How long the ledger keeps the receipt of a run whose own item does not say."""

NOTHING_READ = {
    "nodes": [],
    "progress": {},
    "leader": jsonata("''"),
}
"""`$ledger` when it could not be read."""

NO_RECORD: dict[str, Any] = {"times": {}, "prices": [], "restarts": []}
"""`$record` when it could not be read."""


def write_the_receipt(
    scope: Construct, *, bucket: s3.IBucket, training: str, ledger: Ledger, then: sfn.IChainable
) -> sfn.IChainable:
    """Build the states that leave the run's record beside its model and in the ledger."""
    price = f"$price.{contract.USD_PER_HOUR}"
    repeated = f"$trained.{contract.RING}.repeated_steps"
    trained = f"$trained.{contract.TRAINED_GPU_SECONDS}"
    receipt = f"""(
  $passed := $merge([$times, {{'terminated_at': $now()}}]);
  $well := $outcome.succeeded;
  $leads := $ring.gpus > 0 ? $ring.leader.node : '';
  $formed_ring := $ring;
  $rows := $ledger.nodes;
  $rates := $prices;
  $work := $trained.ranks > 0 ? {{
    'ranks': $trained.ranks, 'steps': $trained.steps, 'repeated': {repeated},
    'trained': $exists({trained}) ? {trained} : $ledger.progress.trained
  }} : $ledger.progress;
  {ACCOUNTS}
  $spent := $exists($bill.usd) ? $bill.usd
    : {price} > 0 ? $round(($end - $price.{contract.BILLED_FROM}) * {price} / 3600, 4);
  $merge([
    {{
      'version': {contract.RECEIPT_VERSION},
      'written_by': 'workflow',
      'run': $run,
      'execution': $states.context.Execution.Id,
      'outcome': $well ? 'succeeded' : 'failed',
      'request': $request,
      'attempts': $attempt,
      'times': $passed,
      'seconds': $seconds
    }},
    $count($lost) > 0 ? {{'restarts': [$lost]}} : {{}},
    $exists($fleet.id) ? {{'fleet': $fleet.id}} : {{}},
    $count($search.looked) > 0 ? {{'capacity': [$search.looked]}} : {{}},
    $well ? {{}} : {{'error': $outcome.error, 'cause': $outcome.cause}},
    $formed_ring.gpus > 0 ? {{'gpus': $formed_ring.gpus, 'leader': $leads}} : {{}},
    $work.ranks > 0 ? {{'ranks': $work.ranks, 'steps': $work.steps}} : {{}},
    $exists($trained.{contract.RING}) ? {{'{contract.RING}': $trained.{contract.RING}}} : {{}},
    $there ? {{'nodes': $nodes, 'gpu_seconds': $gpu_seconds}} : {{}},
    $exists($spent) ? {{'cost': $merge([$bill, {{'usd': $spent, 'spent_usd': $spent}}, {price} > 0 ? {{
      'ceiling_usd': $price.{contract.CEILING_USD}, 'usd_per_hour': {price}
    }} : {{}}])}} : {{}},
    $formed_ring.gpus > 0 and $exists($request.{contract.MAX_COST_USD}) and {price} = 0
      ? {{'{contract.NOTICE}': $price.{contract.NOTICE}}} : {{}},
    $well ? {{'model': {{
      'uri': 's3://{bucket.bucket_name}/' & {key_of_the_run(contract.model_key)},
      'bytes': $saved.bytes, 'files': $saved.files
    }}}} : {{}},
    {_PRICES},
    {_SOFTWARE}
  ])
)"""
    return _write(
        scope, bucket=bucket, training=training, ledger=ledger, receipt=receipt, removal="$remove_at", then=then
    )


def leave_a_receipt(
    scope: Construct,
    *,
    bucket: s3.IBucket,
    training: str,
    ledger: Ledger,
    writer: str,
    then: sfn.IChainable,
    of: str = "",
) -> sfn.TaskStateBase:
    """
    Build the states that write the receipt of a run whose own execution cannot any more, unless it is there already.

    They read `$run`, `$run_id`, `$fleet.id` and `$execution` (see `describe_the_execution`). An error never keeps
    *then* from following.

    Not PutObject's `IfNoneMatch`: a parameter that Step Functions does not know fails the execution beyond any Catch,
    and whether it knows this one, no document says.

    Args:
        bucket: Where receipts are.
        training: Name of the training.
        ledger: Where the run's items are.
        writer: Who writes it, for its reader.
        then: What follows in any case.
        of: Tells these states from those of the same machine that write other receipts.
    """
    error = f"""$execution.status = 'TIMED_OUT' ? '{contract.ERROR_TIMED_OUT}'
      : $execution.error != '' ? $execution.error : '{contract.ERROR_ABORTED}'"""
    cause = """$execution.status = 'TIMED_OUT' ? 'The execution reached its own time limit.'
      : $execution.cause != '' ? $execution.cause : 'The execution was stopped from outside.'"""
    receipt = f"""(
  $passed := $merge([$record.times, {{
    'started_at': $execution.started_at, 'stopped_at': $execution.stopped_at, 'terminated_at': $now()
  }}]);
  $well := false;
  $leads := $ledger.leader;
  $rows := $ledger.nodes;
  $rates := $record.prices;
  $work := $ledger.progress;
  {ACCOUNTS}
  $merge([
    {{
      'version': {contract.RECEIPT_VERSION},
      'written_by': '{writer}',
      'run': $run,
      'execution': $execution.arn,
      'outcome': 'failed',
      'error': {error},
      'cause': {cause},
      'request': $parse($execution.input),
      'times': $passed,
      'seconds': $seconds
    }},
    $fleet.id != '' ? {{'fleet': $fleet.id}} : {{}},
    $exists($ledger.attempts) ? {{'attempts': $ledger.attempts}} : {{}},
    $count($record.restarts) > 0 ? {{'restarts': [$record.restarts]}} : {{}},
    $leads != '' ? {{'leader': $leads}} : {{}},
    $work.ranks > 0 ? {{'ranks': $work.ranks, 'steps': $work.steps}} : {{}},
    $there ? {{'nodes': $nodes, 'gpu_seconds': $gpu_seconds}} : {{}},
    $exists($bill.usd) ? {{'cost': $merge([$bill, {{'spent_usd': $bill.usd}},
      $exists($record.ceiling_usd) ? {{
        'ceiling_usd': $record.ceiling_usd, 'usd_per_hour': $record.usd_per_hour
      }} : {{}}])}} : {{}},
    {_PRICES},
    {_SOFTWARE}
  ])
)"""
    removal = f"($exists($record.remove_at) ? $record.remove_at : $string({NOW} + {KEPT_SECONDS}))"
    write = _write(
        scope, bucket=bucket, training=training, ledger=ledger, receipt=receipt, removal=removal, then=then, of=of
    )
    record = _read_the_record(scope, f"Read the record{of}", ledger=ledger)
    record.add_catch(write, assign={"record": NO_RECORD}).next(write)
    look = call_aws(
        scope,
        f"Look for the receipt{of}",
        service="s3",
        action="listObjectsV2",
        iam_action="s3:ListBucket",
        parameters={
            "Bucket": bucket.bucket_name,
            "Prefix": jsonata(key_of_the_run(contract.receipt_key)),
            "MaxKeys": 1,
        },
        resources=[bucket.bucket_arn],
        assign={"written": jsonata("$states.result.KeyCount > 0")},
    )
    look.add_catch(then).next(
        sfn.Choice.jsonata(scope, f"Receipt there{of}?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$written")), then)
        .otherwise(record)
    )
    return look


_PRICES = "$count($listings) > 0 ? {'on_demand_prices': $listings} : {}"
_SOFTWARE = """$count([$rows.image]) > 0 ? {'image': [$rows.image][-1]} : {},
    $count([$rows.library_version]) > 0 ? {'library_version': [$rows.library_version][-1]} : {}"""


def _write(
    scope: Construct,
    *,
    bucket: s3.IBucket,
    training: str,
    ledger: Ledger,
    receipt: str,
    removal: str,
    then: sfn.IChainable,
    of: str = "",
) -> sfn.IChainable:
    """Build the states around *receipt*, its expression."""
    keep = call_aws(
        scope,
        f"Keep the receipt{of}",
        service="dynamodb",
        action="putItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Item": {
                contract.PARTITION_KEY: RUN_PARTITION,
                contract.SORT_KEY: {"S": contract.RECEIPT_SORT_KEY},
                contract.RECEIPT_JSON: {"S": jsonata("$string($receipt)")},
                contract.TTL_ATTRIBUTE: {"N": jsonata(removal)},
            },
        },
        resources=[ledger.table.table_arn],
    )
    keep.add_catch(then).next(then)
    write = call_aws(
        scope,
        f"Write the receipt{of}",
        service="s3",
        action="putObject",
        parameters={
            "Bucket": bucket.bucket_name,
            "Key": jsonata(key_of_the_run(contract.receipt_key)),
            "ContentType": "application/json",
            # Step Functions writes an object as JSON text.
            "Body": jsonata("$receipt"),
        },
        resources=[bucket.arn_for_objects(contract.receipt_key(contract.training_prefix(training) + "*"))],
    )
    write.add_catch(keep).next(keep)
    make = assign_safely(scope, f"Make out the receipt{of}", assign={"receipt": jsonata(receipt)})
    make.add_catch(then).next(write)
    read = _read_the_nodes(scope, f"Read the nodes{of}", ledger=ledger)
    read.add_catch(make, assign={"ledger": NOTHING_READ}).next(make)
    return read


def _read_the_nodes(scope: Construct, name: str, *, ledger: Ledger) -> sfn.TaskStateBase:
    """Set `$ledger`: one Query from the leaders to the progress, in the order of sort keys backwards."""
    attributes = (
        contract.SORT_KEY,
        contract.NODE,
        contract.GPUS,
        contract.INSTANCE_TYPE,
        contract.MARKET,
        contract.ZONE,
        contract.ADDRESS,
        contract.BOOTED_AT,
        contract.PULL_BEGAN_AT,
        contract.PULLED_AT,
        contract.JOINED_AT,
        contract.SEEN_AT,
        contract.INTERRUPTION,
        contract.IMAGE,
        contract.LIBRARY_VERSION,
        contract.PROGRESS_JSON,
    )
    return call_aws(
        scope,
        name,
        service="dynamodb",
        action="query",
        parameters={
            "TableName": ledger.table.table_name,
            "KeyConditionExpression": "#pk = :run AND #sk BETWEEN :first AND :last",
            "ProjectionExpression": ", ".join(f"#{attribute}" for attribute in attributes),
            "ExpressionAttributeNames": {
                "#pk": contract.PARTITION_KEY,
                **{f"#{attribute}": attribute for attribute in attributes},
            },
            "ExpressionAttributeValues": {
                ":run": NODES_PARTITION,
                ":first": {"S": contract.LEADER_PREFIX},
                ":last": {"S": contract.PROGRESS_SORT_KEY},
            },
            "ConsistentRead": True,
            "ScanIndexForward": False,
            "Limit": MOST_ITEMS,
        },
        resources=[ledger.table.table_arn],
        assign={"ledger": jsonata(_LEDGER)},
    )


def _read_the_record(scope: Construct, name: str, *, ledger: Ledger) -> sfn.TaskStateBase:
    """Set `$record` from the run's own item."""
    attributes = (
        contract.TIMES_JSON,
        contract.PRICES_JSON,
        contract.RESTARTS_JSON,
        contract.USD_PER_HOUR,
        contract.CEILING_USD,
        contract.TTL_ATTRIBUTE,
    )
    return call_aws(
        scope,
        name,
        service="dynamodb",
        action="getItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": RUN_KEY,
            "ProjectionExpression": ", ".join(f"#{attribute}" for attribute in attributes),
            "ExpressionAttributeNames": {f"#{attribute}": attribute for attribute in attributes},
            "ConsistentRead": True,
        },
        resources=[ledger.table.table_arn],
        assign={"record": jsonata(_RECORD)},
    )


_RECORD = f"""(
  $own := $states.result.Item;
  $parsed := function($text, $else) {{ $exists($text) ? $parse($text) : $else }};
  {{
    'times': $parsed($own.{contract.TIMES_JSON}.S, {{}}),
    'prices': [$parsed($own.{contract.PRICES_JSON}.S, [])],
    'restarts': [$parsed($own.{contract.RESTARTS_JSON}.S, [])],
    'usd_per_hour': $number($own.{contract.USD_PER_HOUR}.N),
    'ceiling_usd': $number($own.{contract.CEILING_USD}.N),
    'remove_at': $own.{contract.TTL_ATTRIBUTE}.N
  }}
)"""


def _number(attribute: str) -> str:
    return f"$number($item.{attribute}.N)"


_LEDGER = f"""(
  $of := function($prefix) {{
    [$filter($states.result.Items, function($item) {{
      $substring($item.{contract.SORT_KEY}.S, 0, $length($prefix)) = $prefix
    }})]
  }};
  $leaders := $of('{contract.LEADER_PREFIX}');
  $told := $of('{contract.PROGRESS_SORT_KEY}')[0].{contract.PROGRESS_JSON}.S;
  $far := $exists($told) ? $parse($told) : {{}};
  $positive := function($value) {{ $type($value) = 'number' ? $value }};
  {{
    'nodes': [$map($of('{contract.NODE_PREFIX}'), function($item) {{ {{
      'node': $split($item.{contract.SORT_KEY}.S, '#')[2],
      'gpus': {_number(contract.GPUS)},
      'instance_type': $item.{contract.INSTANCE_TYPE}.S,
      'market': $item.{contract.MARKET}.S,
      'zone': $item.{contract.ZONE}.S,
      'address': $item.{contract.ADDRESS}.S,
      'interruption': $item.{contract.INTERRUPTION}.S,
      'image': $item.{contract.IMAGE}.S,
      'library_version': $item.{contract.LIBRARY_VERSION}.S,
      'booted': {_number(contract.BOOTED_AT)},
      'pull_began': {_number(contract.PULL_BEGAN_AT)},
      'pulled': {_number(contract.PULLED_AT)},
      'joined': {_number(contract.JOINED_AT)},
      'seen': {_number(contract.SEEN_AT)},
      'from': $exists($item.{contract.BOOTED_AT}) ? {_number(contract.BOOTED_AT)} : {_number(contract.JOINED_AT)}
    }} }})],
    'progress': {{
      'ranks': $positive($far.ranks),
      'steps': $positive($far.step),
      'repeated': $positive($far.repeated_steps),
      'trained': $positive($far.{contract.TRAINED_GPU_SECONDS})
    }},
    'leader': $count($leaders) > 0 and $exists($leaders[0].{contract.NODE}) ? $leaders[0].{contract.NODE}.S : '',
    'attempts': $count($leaders) > 0 ? $number($split($leaders[0].{contract.SORT_KEY}.S, '#')[1])
  }}
)"""
