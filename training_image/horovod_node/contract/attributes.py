"""
Attributes of the ledger's items (`horovod_node.contract.ledger`).

Whole numbers are DynamoDB numbers, times are epoch seconds, `*_json` are JSON texts.
"""

from __future__ import annotations

from typing import Final

# Of several items.
RUN: Final = "run"
"""A run's name, for people; its `RUN_ID` says which run it is."""
RUN_ID: Final = "run_id"
"""As `horovod_node.contract.run_id` writes it."""
ATTEMPT: Final = "attempt"
EXECUTION: Final = "execution"
FLEET: Final = "fleet"
NODE: Final = "node"
GPUS: Final = "gpus"
SEEN_AT: Final = "seen_at"

# Of a lease.
ACQUIRED_AT: Final = "acquired_at"
EXPIRES_AT: Final = "expires_at"
"""It holds nothing after this time unless its holder renews it."""
ENDS_BY: Final = "ends_by"
"""The hard maximum; nodes take themselves out at this time, whatever their lease says."""
LEADER_MARKET: Final = "leader_market"
"""The market that the fleet's leaders come from, one of `MARKETS`."""
RECLAIMED_FROM: Final = "reclaimed_from"
"""Where the clean-up or the reaper holds it: the name of the run that held it before, whose `RUN_ID` stays there."""

# Of a queue; the run's name follows.
PLACE_PREFIX: Final = "PLACE#"
"""The time at which a run began to wait, in milliseconds; the order in which runs are served."""
WAITER_PREFIX: Final = "WAITER#"
"""What a waiting run needs (`GPUS`, `EXECUTION`), and its last look at the queue (`SEEN_AT`)."""

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
"""A JSON object of its milestones so far, as in a receipt's `times`."""
PRICES_JSON: Final = "prices_json"
"""
A JSON list of objects with `instance_type`, `market`, `zone` ('' for On-Demand), `usd` (an hour) and, for On-Demand,
`source` (one of `PRICE_SOURCES`), for every type of its fleet, as they were when it got the fleet.
"""
CAPACITY_JSON: Final = "capacity_json"
"""
While it looks for capacity: a JSON object with `number` and `of` (the attempt of the capacity plan, from 1), `attempt`
(its words for people), `since` (epoch seconds) and `refusal` (the provider's own words, '' so far).
"""
RESTARTS_JSON: Final = "restarts_json"
"""A JSON list of the attempts that were lost, each an object with `attempt`, `error`, `cause` and `at` (ISO 8601)."""

# Of a run, written by the state machine when the ring is formed and prices are known.
USD_PER_HOUR: Final = "usd_per_hour"
"""What the ring's instances cost together."""
BILLED_FROM: Final = "billed_from"
"""When the nodes were asked for, which is when their bill can have begun."""
CEILING_USD: Final = "ceiling_usd"
CEILING_AT: Final = "ceiling_at"
"""When the run will have cost its ceiling."""
NOTICE: Final = "notice"
"""A sentence for people: what was not done, and why."""

# Of a node; the first times also of a machine that is about to be one (`boot_key`).
ADDRESS: Final = "address"
INSTANCE_TYPE: Final = "instance_type"
ZONE: Final = "zone"
MARKET: Final = "market"
"""One of `MARKETS`."""
STATE: Final = "state"
"""One of `NODE_STATES`."""
STEP: Final = "step"
BOOTED_AT: Final = "booted_at"
"""When its machine's kernel started. EC2's bill began some seconds before."""
PULL_BEGAN_AT: Final = "pull_began_at"
PULLED_AT: Final = "pulled_at"
JOINED_AT: Final = "joined_at"
INSTALL_BEGAN_AT: Final = "install_began_at"
INSTALLED_AT: Final = "installed_at"
"""Between the two, pip installed the script's `requirements.txt`; there only if the script has one."""
READY_AT: Final = "ready_at"
"""When it had the script, the data and the checkpoint."""
LEFT_AT: Final = "left_at"
"""When its part of the run was over and its instance began to take itself out; its bill ends then."""
IMAGE: Final = "image"
LIBRARY_VERSION: Final = "library_version"
PACE_JSON: Final = "pace_json"
"""A JSON list of `[rank, compute seconds, wait seconds]`, both of a step, for each of its ranks."""
INTERRUPTION: Final = "interruption"
"""Where EC2 will take it away: one of `INTERRUPTIONS`."""
INTERRUPTED_AT: Final = "interrupted_at"
"""When the node heard of it."""

# Of the items that hold one thing.
TOKEN: Final = "token"  # noqa: S105 - an attribute name, not a secret
PLAN: Final = "plan"
"""The ring's plan, as `horovod_node.local_ranks.plan.RingPlan` writes it."""
CHANNEL_JSON: Final = "channel_json"
PROGRESS_JSON: Final = "progress_json"
"""A JSON object with the fields of `horovod_node.rank_process.progress.Progress` of rank 0, `ranks` and `resets`."""
TRAINED_GPU_SECONDS: Final = "trained_gpu_seconds"
"""Of `PROGRESS_JSON` and of the train answer: ranks times seconds in which steps were taken, of all attempts."""
FAILURE_JSON: Final = "failure_json"
FAILED_AT: Final = "failed_at"
RECEIPT_VERSION: Final = 2
"""Of a receipt; its fields are in `horovod_client/receipt.schema.json`."""

STAGE_QUEUED: Final = "queued"
STAGE_STARTING: Final = "starting"
STAGE_JOINING: Final = "joining"
STAGE_TRAINING: Final = "training"
STAGE_SAVING: Final = "saving"
STAGE_SUCCEEDED: Final = "succeeded"
STAGE_FAILED: Final = "failed"
