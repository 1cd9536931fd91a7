"""
Attributes of the ledger's items (`horovod_node.contract.ledger`).

Whole numbers are DynamoDB numbers, times are epoch seconds, `*_json` are JSON texts.
"""

from __future__ import annotations

from typing import Final

# Of several items.
RUN: Final = "run"
"""A run's name, for people. Only `RUN_ID` is unique."""
RUN_ID: Final = "run_id"
"""A run's id, in the format of `horovod_node.contract.run_id`."""
ATTEMPT: Final = "attempt"
EXECUTION: Final = "execution"
FLEET: Final = "fleet"
NODE: Final = "node"
GPUS: Final = "gpus"
SEEN_AT: Final = "seen_at"

# Of a lease.
ACQUIRED_AT: Final = "acquired_at"
EXPIRES_AT: Final = "expires_at"
"""When the lease expires, unless its holder renews it."""
ENDS_BY: Final = "ends_by"
"""The hard maximum: nodes terminate themselves at this time, even with a valid lease."""
LEADER_MARKET: Final = "leader_market"
"""The market that the fleet's leaders come from, one of `MARKETS`."""
RECLAIMED_FROM: Final = "reclaimed_from"
"""
Of a lease that the clean-up or the reaper holds: the name of the run that held it before. The item keeps that run's
`RUN_ID`.
"""

# Of a queue; the run's name follows.
PLACE_PREFIX: Final = "PLACE#"
"""When a run was queued, in epoch milliseconds; runs get a fleet in this order."""
WAITER_PREFIX: Final = "WAITER#"
"""
A queued run: its `GPUS`, its `EXECUTION`, when it last polled the queue (`SEEN_AT`), and with several engines those
from which it may get a fleet (`WAITER_ENGINES`).
"""
WAITER_ENGINES: Final = "engines"
"""Names of engines, separated by commas."""

# Of a run.
VERSION: Final = "version"
"""The `CONTRACT_VERSION` of the state machine."""
REQUEST_JSON: Final = "request_json"
SETTINGS_JSON: Final = "settings_json"
"""A JSON object with the fields of `RunSettings`."""
CREATED_AT: Final = "created_at"
STAGE: Final = "stage"
"""One of `STAGE_*`, for people and the client."""
RECEIPT_AT: Final = "receipt_at"
"""When its receipt was written to S3; 0 if that failed."""
TIMES_JSON: Final = "times_json"
"""A JSON object of the run's milestones so far, as in a receipt's `times`."""
PRICES_JSON: Final = "prices_json"
"""
A JSON list of the prices of the fleet's instance types, as they were when the run got the fleet. Its objects have
`instance_type`, `market`, `zone` ('' for On-Demand), `usd` (an hour) and, for On-Demand, `source` (one of
`PRICE_SOURCES`).
"""
CAPACITY_JSON: Final = "capacity_json"
"""
The search for capacity: a JSON object with `number` and `of` (the attempt of the capacity plan, from 1), `attempt` (its
description for people), `since` (epoch seconds) and `refusal` (the provider's message, '' if there is none yet).
"""
LEFT_JSON: Final = "left_json"
"""
What a run has left to go on elsewhere: a JSON object with `fleets`, each with `id`, `until` (epoch seconds at which
nothing ran there any more) and `in_receipt` (as in a receipt's `fleets`), and `bills` (what their providers billed, as
in a receipt's `jobs`).
"""
RESTARTS_JSON: Final = "restarts_json"
"""A JSON list of the attempts that were lost, each an object with `attempt`, `error`, `cause` and `at` (ISO 8601)."""

# Of a run, written by the state machine when the ring is formed and prices are known.
USD_PER_HOUR: Final = "usd_per_hour"
"""Price of all instances of the ring together."""
BILLED_FROM: Final = "billed_from"
"""When the nodes were requested: the earliest time from which EC2 may bill them."""
CEILING_USD: Final = "ceiling_usd"
CEILING_AT: Final = "ceiling_at"
"""When the run will have cost its ceiling."""
NOTICE: Final = "notice"
"""A sentence for people: what was not done, and why."""

# Of a node. An instance whose agent has not started yet (`boot_key`) has the first of these times, too.
ADDRESS: Final = "address"
INSTANCE_TYPE: Final = "instance_type"
ZONE: Final = "zone"
MARKET: Final = "market"
"""One of `MARKETS`."""
STATE: Final = "state"
"""One of `NODE_STATES`."""
STEP: Final = "step"
BOOTED_AT: Final = "booted_at"
"""When the instance's kernel started, some seconds after EC2 began to bill the instance."""
PULL_BEGAN_AT: Final = "pull_began_at"
PULLED_AT: Final = "pulled_at"
JOINED_AT: Final = "joined_at"
INSTALL_BEGAN_AT: Final = "install_began_at"
INSTALLED_AT: Final = "installed_at"
"""When pip had installed the script's `requirements.txt`. Absent, as `INSTALL_BEGAN_AT`, if the script has none."""
READY_AT: Final = "ready_at"
"""When the node had the script, the data and the checkpoint."""
LEFT_AT: Final = "left_at"
"""When the node's part of the run was over and its instance began to terminate itself; its bill ends then."""
IMAGE: Final = "image"
CONTAINER: Final = "container"
"""Id of the ECS task, or name of the SageMaker job, whose container the agent is; absent on EC2."""
LIBRARY_VERSION: Final = "library_version"
PACE_JSON: Final = "pace_json"
"""A JSON list with `[rank, compute seconds per step, wait seconds per step]` for each rank of the node."""
INTERRUPTION: Final = "interruption"
"""The interruption that EC2 announced: one of `INTERRUPTIONS`."""
INTERRUPTED_AT: Final = "interrupted_at"
"""When the node received the announcement."""

# Of items with one value.
TOKEN: Final = "token"  # noqa: S105 - an attribute name, not a secret
PLAN: Final = "plan"
"""The ring's plan, as `horovod_node.local_ranks.plan.RingPlan` writes it."""
CHANNEL_JSON: Final = "channel_json"
PROGRESS_JSON: Final = "progress_json"
"""A JSON object with the fields of `horovod_node.rank_process.progress.Progress` of rank 0, `ranks` and `resets`."""
TRAINED_GPU_SECONDS: Final = "trained_gpu_seconds"
"""
A field of `PROGRESS_JSON` and of the train answer: seconds in which steps were taken, times ranks, over all attempts.
"""
FAILURE_JSON: Final = "failure_json"
FAILED_AT: Final = "failed_at"
RECEIPT_VERSION: Final = 2
"""Version of the receipt's format, which is `horovod_client/receipt.schema.json`."""

STAGE_QUEUED: Final = "queued"
STAGE_STARTING: Final = "starting"
STAGE_JOINING: Final = "joining"
STAGE_TRAINING: Final = "training"
STAGE_SAVING: Final = "saving"
STAGE_SUCCEEDED: Final = "succeeded"
STAGE_FAILED: Final = "failed"
