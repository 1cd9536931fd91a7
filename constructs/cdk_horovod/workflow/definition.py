"""
The whole run on one screen.

Variables, in the order in which they come: `$run` (execution name), `$attempt`, `$times` (ISO 8601, for the receipt),
`$outcome` (succeeded, error, cause), `$request` (with its defaults), `$fleets` (those that fit), `$open` (those whose
turn it is), `$fleet` (the one reserved), `$fresh` (nothing was started in it yet), `$ring`, `$trained` and `$saved`
(the leader's answers, see `horovod_node.contract`), `$price`, `$protected` and `$running` (set by the engine's
states).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.engines.engine import EngineConfig
from cdk_horovod.ledger import Ledger
from cdk_horovod.storage import ITrainingStorage
from cdk_horovod.workflow import closing, lease, line, token_tasks
from cdk_horovod.workflow.admission import check_the_data, check_the_request, record_the_run
from cdk_horovod.workflow.emptying import Emptying
from cdk_horovod.workflow.limits import RunLimits
from cdk_horovod.workflow.outcome import leader_lost, lease_lost, out_of_time
from cdk_horovod.workflow.pricing import price_the_ring
from cdk_horovod.workflow.states import CAUGHT, NO_OUTPUT, failure, jsonata
from horovod_node import contract


def run_definition(
    scope: Construct,
    *,
    engine: EngineConfig,
    storage: ITrainingStorage,
    readable: Sequence[s3.IBucket],
    ledger: Ledger,
    queue: str,
    limits: RunLimits,
    max_cost_usd: float | None,
    max_restarts: int,
    keep_checkpoints: int,
    on_demand_prices: Mapping[str, float],
) -> sfn.IChainable:
    """
    Build the run's graph: check, reserve, start, train, save, terminate, confirm, receipt, release.

    From *Start nodes* on, every path leads through *Confirm that nothing runs*; a test walks them all.
    """
    bucket, states = storage.model_bucket, engine.states

    # The end, which every run reaches. A step that fails here never keeps the next one from being tried.
    end = closing.outcome(scope, bucket=bucket)
    release = lease.release(scope, ledger=ledger)
    close = closing.close_the_run(scope, ledger=ledger)
    receipt = closing.write_the_receipt(scope, bucket=bucket)
    receipt.add_catch(close).next(close)
    close.add_catch(release).next(release)
    release.add_catch(end).next(end)

    # The fleet is emptied twice: what a run finds in it goes before the nodes start, and everything goes in the end.
    begin_or_end = sfn.Choice.jsonata(scope, "Nodes started?", outputs=NO_OUTPUT)
    emptying = Emptying(
        scope,
        states=states,
        ledger=ledger,
        hold=limits.hold,
        pause=limits.poll_interval,
        empty=begin_or_end,
        lost=receipt,
        lost_assign=lease_lost(),
    )
    terminate = emptying.terminate

    # The run itself.
    start = states.start(scope)
    explain, protect, release_workers = states.explain(scope), states.protect(scope), states.release(scope)
    ring = token_tasks.wait_for_the_ring(scope, ledger=ledger, limits=limits)
    train = token_tasks.train(scope, ledger=ledger, limits=limits)
    save = token_tasks.save_the_model(scope, ledger=ledger, limits=limits)
    check = closing.check_the_model(scope, bucket=bucket)
    price = price_the_ring(scope, ledger=ledger, on_demand_prices=on_demand_prices, then=train)

    ring.add_catch(
        explain,
        errors=[token_tasks.HEARTBEAT_MISSED, token_tasks.TIMED_OUT],
        assign=failure(contract.ERROR_RING_NOT_FORMED, "'The nodes did not all come in time.'"),
    )
    explain.add_catch(terminate).next(terminate)
    for task in (train, save):
        task.add_catch(terminate, errors=[token_tasks.HEARTBEAT_MISSED], assign=leader_lost(limits))
    train.add_catch(terminate, errors=[token_tasks.TIMED_OUT], assign=out_of_time())
    for task in (*start, ring, train, save, check):
        task.add_catch(terminate, assign=CAUGHT)
    # Keeping workers through the upload costs money; losing the model for it would cost more.
    for task in (protect, release_workers):
        task.add_catch(save)

    begun = sfn.Chain.start(start[0])
    for state in (*start[1:], ring, price):
        begun = begun.next(state)
    ended = sfn.Chain.start(train)
    for state in (protect, release_workers, save, check, terminate):
        ended = ended.next(state)
    begin_or_end.when(sfn.Condition.jsonata(jsonata("$fresh")), start[0], assign={"fresh": False}).otherwise(receipt)

    record = record_the_run(scope, storage=storage, ledger=ledger, limits=limits, keep_checkpoints=keep_checkpoints)
    record.add_catch(receipt, assign=CAUGHT)
    data = check_the_data(scope, readable=readable, refused=receipt, then=record)
    record.next(
        _queue(scope, engine=engine, ledger=ledger, queue=queue, limits=limits, then=emptying.confirm, refused=receipt)
    )
    return check_the_request(
        scope,
        engine=engine,
        limits=limits,
        max_cost_usd=max_cost_usd,
        max_restarts=max_restarts,
        refused=receipt,
        then=data,
    )


def _queue(
    scope: Construct,
    *,
    engine: EngineConfig,
    ledger: Ledger,
    queue: str,
    limits: RunLimits,
    then: sfn.IChainable,
    refused: sfn.IChainable,
) -> sfn.IChainable:
    """Wait in line until a fleet can be reserved; leave the line in either case."""
    interval = limits.queue_interval(fleets=len(engine.fleets))
    look = line.look_at_the_line(scope, ledger=ledger, queue=queue, interval=interval)
    reserve = lease.reserve(scope, ledger=ledger, limits=limits)
    leave = line.leave_the_line(scope, ledger=ledger, queue=queue)
    left = (
        sfn.Choice.jsonata(scope, "Fleet reserved?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$outcome.error = ''")), then)
        .otherwise(refused)
    )
    leave.add_catch(left).next(left)
    first = sfn.Choice.jsonata(scope, "First in line?", outputs=NO_OUTPUT)
    wait = line.wait_in_line(scope, interval=interval, queue_timeout=limits.queue_timeout, then=look, leave=leave)
    first.when(sfn.Condition.jsonata(jsonata("$count($open) > 0")), reserve).otherwise(wait)
    # A fleet that is taken, or cannot be asked for now, is not open: the next one, or the next look.
    reserve.add_catch(
        first,
        assign={"open": jsonata("[$filter($open, function($fleet) { $fleet.id != $open[0].id })]")},
    )
    reserve.next(leave)
    look.add_catch(wait).next(first)
    return look
