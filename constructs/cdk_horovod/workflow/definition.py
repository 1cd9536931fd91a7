"""
The graph of a run.

Variables:

- `$run` (name of the execution), `$run_id` (see `contract.run_id`), `$times` (ISO 8601, for the receipt), `$outcome`
  (succeeded, error, cause)
- `$attempt`: from 1; a new one begins after the fleet was emptied, and after a loss. Nodes of the attempt before do not
  lead it and do not count in it.
- `$request` (with its defaults), `$request_json` (the same as text, numbers unchanged)
- `$fleets` (those that fit the request), `$eligible_fleets` (those that the run may try now), `$fleet` (the reserved
  one)
- `$must_be_empty` (whether the fleet must be empty before nodes start), `$search` (see `workflow.capacity_search`)
- `$ring`, `$trained`, `$saved` (the leader's answers, see `horovod_node.contract`)
- `$left` (see `workflow.next_fleet`), `$prices` (of the types of all fleets that the run had), `$price` (of the ring,
  if there is a ceiling)
- `$lost_attempts` (earlier attempts), `$spent` (their seconds of training), `$restart` (whether another attempt
  follows), `$lost_leader` (the node that led and fell silent; '' for none)
- `$tally`, `$bills`, `$receipt_written` (see `workflow.receipt`), `$held` (see `workflow.lease`), `$emptying` (see
  `workflow.emptying`)
- `$running`, `$staying` (set by the engine's states, which may set others of their own)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import CAUGHT, CONDITION_FAILED, NO_OUTPUT, entered_as, jsonata
from cdk_horovod.asl.steps import in_order
from cdk_horovod.engines.engine import EngineConfig
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.resources.storage import ITrainingStorage
from cdk_horovod.workflow import capacity_search, closing, lease, run_queue, token_tasks
from cdk_horovod.workflow.admission import check_the_data, check_the_request, read_the_request, record_the_run
from cdk_horovod.workflow.emptying import Emptying
from cdk_horovod.workflow.next_fleet import leave_the_fleet
from cdk_horovod.workflow.outcome import LOST, attempt_lost, leader_lost, lease_lost, out_of_time
from cdk_horovod.workflow.price_lookup import look_up_prices
from cdk_horovod.workflow.receipt import write_the_receipt
from cdk_horovod.workflow.run_timeouts import RunTimeouts


def run_definition(
    scope: Construct,
    *,
    engine: EngineConfig,
    storage: ITrainingStorage,
    readable: Sequence[s3.IBucket],
    ledger: Ledger,
    queue: str,
    timeouts: RunTimeouts,
    max_cost_usd: float | None,
    max_restarts: int,
    keep_checkpoints: int,
    on_demand_prices: Mapping[str, float],
) -> sfn.IChainable:
    """
    Build the run's graph: check, reserve, price, tag, start, train, save, terminate, confirm, release, receipt.

    Two loops lead back to the start of nodes: the next attempt to get capacity, and the next attempt of the run.

    From *Start nodes* on, every path leads through *Confirm that nothing runs*; a test walks all paths.
    """
    bucket, states = storage.model_bucket, engine.states

    # The end, which every run reaches. If a step fails here, the next one still runs. The fleet is released before the
    # receipt is written, so that a failing receipt does not keep other runs waiting.
    end = closing.outcome(scope, bucket=bucket)
    close = closing.close_the_run(scope, ledger=ledger)
    close.add_catch(end).next(end)
    receipt = write_the_receipt(scope, bucket=bucket, training=queue, ledger=ledger, then=close)
    release = lease.release(scope, ledger=ledger, assign={"times": entered_as("terminated_at")})
    over: sfn.IChainable = receipt
    if len(engine.names) > 1:
        leave = leave_the_fleet(scope, ledger=ledger, failed=receipt)
        over = (
            sfn.Choice.jsonata(scope, "On to another fleet?", outputs=NO_OUTPUT)
            .when(sfn.Condition.jsonata(jsonata(capacity_search.LEFT)), leave)
            .otherwise(receipt)
        )
    bill = in_order(states.bill(scope), then=over)
    release.add_catch(bill).next(bill)

    # The fleet is emptied at the end, and before nodes start that must not find nodes of earlier runs or attempts.
    restore = in_order(states.restore(scope), then=release)
    begin_or_end = sfn.Choice.jsonata(scope, "Nodes to start?", outputs=NO_OUTPUT)
    emptying = Emptying(
        scope,
        states=states,
        ledger=ledger,
        hold=timeouts.hold,
        pause=timeouts.poll_interval,
        empty=begin_or_end,
        lost=receipt,
        lost_assign=lease_lost(),
    )
    terminate = emptying.terminate

    # The run itself.
    hold = lease.hold_to_start(scope, ledger=ledger, seconds=timeouts.hold)
    # Costs count from the first start of nodes.
    start = states.start(scope, assign={"times": jsonata("$merge([{'asked_at': $now()}, $times])")})
    ring = token_tasks.wait_for_the_ring(scope, ledger=ledger)
    train = token_tasks.train(scope, ledger=ledger, timeouts=timeouts)
    save = token_tasks.save_the_model(scope, ledger=ledger, timeouts=timeouts)
    check = closing.check_the_model(scope, bucket=bucket, training=queue)
    another = _another_attempt(scope, then=hold, emptied=terminate, end=terminate)
    look = _search_on(scope, engine=engine, timeouts=timeouts, wait=hold, then=another)
    again = _start_again(
        scope,
        engine=engine,
        ledger=ledger,
        timeouts=timeouts,
        then=hold,
        emptied=terminate,
        end=terminate,
        lost=receipt,
        none=look,
    )
    leader = token_tasks.look_for_the_leader(scope, ledger=ledger, timeouts=timeouts)
    leader.add_catch(look).next(again)

    begin_or_end.when(
        sfn.Condition.jsonata(jsonata("$must_be_empty")),
        hold,
        assign={"must_be_empty": False, "attempt": jsonata("$attempt + 1")},
    ).otherwise(restore)
    hold.add_catch(receipt, errors=[CONDITION_FAILED], assign=lease_lost())
    ring.add_catch(leader, errors=[token_tasks.HEARTBEAT_MISSED]).add_catch(look, errors=[token_tasks.TIMED_OUT])
    ring.add_catch(again, errors=list(LOST), assign=attempt_lost(timeouts, had_a_ring=False))
    for task in (train, save):
        task.add_catch(again, errors=[token_tasks.HEARTBEAT_MISSED], assign=leader_lost(timeouts))
        task.add_catch(again, errors=list(LOST), assign=attempt_lost(timeouts, had_a_ring=True))
    train.add_catch(terminate, errors=[token_tasks.TIMED_OUT], assign=out_of_time())
    refusals = list(dict.fromkeys(error for fleet in engine.fleets for error in fleet.refusals))
    for step in start if refusals else ():
        step.add_catch(
            another,
            errors=refusals,
            assign=capacity_search.judged("[$states.errorOutput.Cause]", fleets=engine.fleets),
        )
    in_order((ring, train, save, check), then=terminate, assign=CAUGHT)
    first = in_order(start, then=ring, caught=terminate, assign=CAUGHT)
    hold.add_catch(terminate, assign=CAUGHT).next(
        sfn.Choice.jsonata(scope, "Requested already?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata(capacity_search.REQUESTED)), ring)
        .otherwise(first)
    )

    record = record_the_run(scope, storage=storage, ledger=ledger, timeouts=timeouts, keep_checkpoints=keep_checkpoints)
    record.add_catch(receipt, assign=CAUGHT)
    tag = in_order(states.tag(scope), then=terminate)
    types = {name for fleet in engine.fleets for name in fleet.types}
    prices = look_up_prices(scope, types=types, on_demand_prices=on_demand_prices, then=tag)
    read = read_the_request(scope, refused=receipt).next(record)
    data = check_the_data(scope, readable=readable, refused=receipt, then=read)
    line = _queue(scope, engine=engine, ledger=ledger, queue=queue, timeouts=timeouts, then=prices, refused=receipt)
    record.next(line)
    if len(engine.names) > 1:
        leave.next(line)
    return check_the_request(
        scope,
        engine=engine,
        timeouts=timeouts,
        max_cost_usd=max_cost_usd,
        max_restarts=max_restarts,
        queue=queue,
        refused=receipt,
        then=data,
    )


def _another_attempt(
    scope: Construct, *, then: sfn.IChainable, emptied: sfn.IChainable, end: sfn.IChainable
) -> sfn.IChainable:
    """Build the state that makes the next attempt of the fleet's plan, with or without an emptying, or ends the run."""
    return (
        sfn.Choice.jsonata(scope, "Another attempt?", outputs=NO_OUTPUT)
        .when(
            sfn.Condition.jsonata(jsonata(f"$search.step = 'fail' or {capacity_search.LEFT}")),
            end,
            assign=capacity_search.NOT_FORMED,
        )
        .when(sfn.Condition.jsonata(jsonata("$search.step = 'empty'")), emptied, assign={"must_be_empty": True})
        .otherwise(then)
    )


def _search_on(
    scope: Construct, *, engine: EngineConfig, timeouts: RunTimeouts, wait: sfn.IChainable, then: sfn.IChainable
) -> sfn.IChainable:
    """
    Build the states that look at the nodes, and find out why there is no ring.

    Args:
        wait: Follows while nodes are on the way.
        then: Follows when it is known what the provider said.
    """
    explain = in_order(
        engine.states.explain(scope, judged=partial(capacity_search.judged, fleets=engine.fleets)),
        then=then,
        assign=capacity_search.judged("[]", fleets=engine.fleets, asked=False),
    )
    return in_order(
        engine.states.look(scope, judged=partial(capacity_search.looked_at, timeouts=timeouts)),
        then=(
            sfn.Choice.jsonata(scope, "Nodes on the way?", outputs=NO_OUTPUT)
            .when(sfn.Condition.jsonata(jsonata(capacity_search.REQUESTED)), wait)
            .otherwise(explain)
        ),
        assign=capacity_search.UNSEEN,
    )


def _start_again(
    scope: Construct,
    *,
    engine: EngineConfig,
    ledger: Ledger,
    timeouts: RunTimeouts,
    then: sfn.IChainable,
    emptied: sfn.IChainable,
    end: sfn.IChainable,
    lost: sfn.IChainable,
    none: sfn.IChainable,
) -> sfn.IChainable:
    """
    Build the states that begin the run's next attempt, if it may restart, and else end it.

    It begins with the remaining nodes, or in a fleet that is not elastic with none.

    Args:
        then: Follows for an attempt with the remaining nodes.
        emptied: Follows for an attempt with an empty fleet.
        end: Follows if the run may not restart.
        lost: Follows if another execution holds the fleet.
        none: Follows if no leader was lost, because none was elected.
    """
    begin = lease.begin_the_next_attempt(scope, ledger=ledger, seconds=timeouts.hold)
    begin.add_catch(lost, errors=[CONDITION_FAILED], assign=lease_lost()).add_catch(end)
    leader = sfn.Choice.jsonata(scope, "Leader to replace?", outputs=NO_OUTPUT)
    if not all(fleet.size.elastic for fleet in engine.fleets):
        leader.when(sfn.Condition.jsonata(jsonata("$not($fleet.elastic)")), emptied, assign={"must_be_empty": True})
    begin.next(
        leader.when(sfn.Condition.jsonata(jsonata("$lost_leader = ''")), then)
        # An error is ignored: usually the leader's instance has already terminated.
        .otherwise(in_order(engine.states.replace(scope), then=then))
    )
    return (
        sfn.Choice.jsonata(scope, "Start again?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$search.step = 'look'")), none)
        .when(sfn.Condition.jsonata(jsonata("$restart")), begin)
        .otherwise(end)
    )


def _queue(
    scope: Construct,
    *,
    engine: EngineConfig,
    ledger: Ledger,
    queue: str,
    timeouts: RunTimeouts,
    then: sfn.IChainable,
    refused: sfn.IChainable,
) -> sfn.IChainable:
    """Build the states that wait in the queue until a fleet is reserved or the timeout is over, and then leave it."""
    interval = timeouts.queue_interval(fleets=len(engine.fleets), engines=len(engine.names))
    engines = len(engine.names)
    look = run_queue.poll_the_queue(scope, ledger=ledger, queue=queue, interval=interval, engines=engines)
    reserve = lease.reserve(scope, ledger=ledger, timeouts=timeouts)
    leave = run_queue.leave_the_queue(scope, ledger=ledger, queue=queue)
    left = (
        sfn.Choice.jsonata(scope, "Fleet reserved?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$outcome.error = ''")), then)
        .otherwise(refused)
    )
    leave.add_catch(left).next(left)
    first = run_queue.first_in_the_queue(
        scope,
        interval=interval,
        queue_timeout=timeouts.queue_timeout,
        engines=engines,
        reserve=reserve,
        then=look,
        leave=leave,
    )
    # A fleet that is taken, or whose lease cannot be written now, is removed until the next poll.
    reserve.add_catch(
        first,
        assign={
            "eligible_fleets": jsonata(
                "[$filter($eligible_fleets, function($fleet) { $fleet.id != $eligible_fleets[0].id })]"
            )
        },
    )
    reserve.next(leave)
    look.add_catch(first, assign={"eligible_fleets": []}).next(first)
    return look
