"""
Names that cross process borders: constructs, state machine, client and node all read them here.

Only the standard library is imported, so that `cdk synth`, the client and the training image can share this file
without sharing dependencies. Four groups: the node's environment, the ledger's items, the request, and what a node
answers to the state machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

CONTRACT_VERSION: Final = 3
"""Raised when an item or field changes its meaning; a node refuses a run of another version."""

# --- the node's environment -------------------------------------------------------------------------------------------
# Written by user data into `/etc/cdk-horovod/node.env`, read by `horovod_node.identify`.

ENV_ENGINE: Final = "CDK_HOROVOD_ENGINE"
"""What provides this node: one of `ENGINES`."""
ENV_LEDGER_TABLE: Final = "CDK_HOROVOD_LEDGER_TABLE"
"""Name of the ledger's DynamoDB table."""
ENV_FLEET: Final = "CDK_HOROVOD_FLEET"
"""The fleet that this node belongs to; finds the lease, and through it the run."""
ENV_LEASE_SECONDS: Final = "CDK_HOROVOD_LEASE_SECONDS"
"""The dead-man's switch takes the node out after this long without a valid lease."""
ENV_ML_ROOT: Final = "CDK_HOROVOD_ML_ROOT"
"""Folder of the SageMaker layout (`input`, `model`, `checkpoints`, …). Default: `/opt/ml`."""

ENV_TRAINING: Final = "CDK_HOROVOD_TRAINING"
"""Name of the training: dimension of its metrics."""
ENV_LOG_GROUP: Final = "CDK_HOROVOD_LOG_GROUP"
"""CloudWatch log group that the agent sends its own lines, its ranks' and the metrics to. Default: they go nowhere."""
ENV_ECHO: Final = "CDK_HOROVOD_ECHO"
"""Whether ranks' lines that go to the log group are printed, too: `1`. Default: they are not."""
ENV_IMAGE: Final = "CDK_HOROVOD_IMAGE"
"""The image that the container runs: with its digest where the boot script could tell it, else as it was named."""
ENV_BOOTED_AT: Final = "CDK_HOROVOD_BOOTED_AT"
"""Epoch seconds at which the machine's kernel started."""
ENV_PULL_BEGAN_AT: Final = "CDK_HOROVOD_PULL_BEGAN_AT"
ENV_PULLED_AT: Final = "CDK_HOROVOD_PULLED_AT"
"""Epoch seconds between which the boot script pulled the image."""

# What instance metadata tells an EC2 node, an engine without it puts into the environment.
ENV_NODE_ID: Final = "CDK_HOROVOD_NODE_ID"
ENV_NODE_ADDRESS: Final = "CDK_HOROVOD_NODE_ADDRESS"
ENV_NODE_INTERFACE: Final = "CDK_HOROVOD_NODE_INTERFACE"
ENV_NODE_GPUS: Final = "CDK_HOROVOD_NODE_GPUS"
ENV_NODE_TYPE: Final = "CDK_HOROVOD_NODE_TYPE"
ENV_NODE_ZONE: Final = "CDK_HOROVOD_NODE_ZONE"
ENV_NODE_MARKET: Final = "CDK_HOROVOD_NODE_MARKET"

ENGINE_EC2: Final = "ec2"
ENGINE_LOCAL: Final = "local"
ENGINES: Final = (ENGINE_EC2, ENGINE_LOCAL)

NODE_ENV_FILE: Final = "/etc/cdk-horovod/node.env"
"""Where user data leaves the environment for the container; the local cloud reads the same lines out of user data."""

SWITCH_FILE: Final = "/usr/local/sbin/cdk-horovod-dead-mans-switch"
"""Where user data leaves the dead-man's switch, a unit of its own; the local cloud runs the same script."""

ON_DEMAND: Final = "on-demand"
SPOT: Final = "spot"
MARKETS: Final = (ON_DEMAND, SPOT)
"""As instance metadata's `instance-life-cycle` spells them."""

DEFAULT_ML_ROOT: Final = "/opt/ml"

RENDEZVOUS_PORT: Final = 29400
"""Where the leader serves Horovod's rendezvous, on its private address."""
CHANNEL_PORT: Final = 29401
"""Where the leader of an elastic ring takes its followers' connections, on the same address."""

# --- the ledger -------------------------------------------------------------------------------------------------------
# One table, partition key `pk`, sort key `sk`, both strings.
#
#   pk            sk                       what
#   FLEET#fleet   LEASE                    who holds the fleet, and until when
#   QUEUE#queue   LINE                     the runs that wait, as two attributes each: PLACE#run and WAITER#run
#   RUN#run       RUN                      the request, the settings, the stage, the price
#   RUN#run       TASK#attempt#task        a task token of the state machine, waiting for a node's answer
#   RUN#run       LEADER#attempt           the node that leads (conditional write: there is one)
#   RUN#run       NODE#attempt#node        a node: address, GPUs, market, zone, state, steps, last sign of life
#   RUN#run       PLAN#attempt             the ring: hosts in rank order
#   RUN#run       CHANNEL#attempt          of an elastic ring: where the leader's channel is, and its key
#   RUN#run       PROGRESS                 how far the training is, for people; written by the leader
#   RUN#run       FAILURE#attempt#node     the first failure that a node saw
#   RUN#run       BOOT#node                a machine that pulls the image, before its agent is there
#   RUN#run       RECEIPT                  the receipt, as it is in S3

PARTITION_KEY: Final = "pk"
SORT_KEY: Final = "sk"
TTL_ATTRIBUTE: Final = "remove_at"
"""Epoch seconds after which DynamoDB may drop the item."""

FLEET_PREFIX: Final = "FLEET#"
QUEUE_PREFIX: Final = "QUEUE#"
RUN_PREFIX: Final = "RUN#"
LEASE_SORT_KEY: Final = "LEASE"
LINE_SORT_KEY: Final = "LINE"
RUN_SORT_KEY: Final = "RUN"
TASK_PREFIX: Final = "TASK#"
LEADER_PREFIX: Final = "LEADER#"
NODE_PREFIX: Final = "NODE#"
PLAN_PREFIX: Final = "PLAN#"
CHANNEL_PREFIX: Final = "CHANNEL#"
PROGRESS_SORT_KEY: Final = "PROGRESS"
FAILURE_PREFIX: Final = "FAILURE#"
BOOT_PREFIX: Final = "BOOT#"
RECEIPT_SORT_KEY: Final = "RECEIPT"

# Attributes. Whole numbers are DynamoDB numbers, times are epoch seconds, `*_json` are JSON texts.
RUN: Final = "run"
ATTEMPT: Final = "attempt"
EXECUTION: Final = "execution"
FLEET: Final = "fleet"
ACQUIRED_AT: Final = "acquired_at"
EXPIRES_AT: Final = "expires_at"
"""Of a lease: it holds nothing after this time unless its holder renews it."""
ENDS_BY: Final = "ends_by"
"""Of a lease: the hard maximum; nodes take themselves out at this time, whatever their lease says."""
LEADER_MARKET: Final = "leader_market"
"""Of a lease: the market that the fleet's leaders come from, one of `MARKETS`."""
RECLAIMED_FROM: Final = "reclaimed_from"
"""Of a lease that the clean-up or the reaper holds: the run that held it before."""
PLACE_PREFIX: Final = "PLACE#"
"""Of a line: the time at which a run began to wait, in milliseconds; the order in which runs are served."""
WAITER_PREFIX: Final = "WAITER#"
"""Of a line: what a waiting run needs (`GPUS`, `EXECUTION`), and its last look at the line (`SEEN_AT`)."""
VERSION: Final = "version"
REQUEST_JSON: Final = "request_json"
SETTINGS_JSON: Final = "settings_json"
STAGE: Final = "stage"
CREATED_AT: Final = "created_at"
TOKEN: Final = "token"  # noqa: S105 - an attribute name, not a secret
NODE: Final = "node"
ADDRESS: Final = "address"
GPUS: Final = "gpus"
INSTANCE_TYPE: Final = "instance_type"
ZONE: Final = "zone"
MARKET: Final = "market"
STATE: Final = "state"
STEP: Final = "step"
BOOTED_AT: Final = "booted_at"
"""Of a node: when its machine's kernel started. EC2's bill began some seconds before."""
PULL_BEGAN_AT: Final = "pull_began_at"
PULLED_AT: Final = "pulled_at"
JOINED_AT: Final = "joined_at"
READY_AT: Final = "ready_at"
"""Of a node: when it had the script, the data and the checkpoint."""
SEEN_AT: Final = "seen_at"
IMAGE: Final = "image"
LIBRARY_VERSION: Final = "library_version"
TRAINED_GPU_SECONDS: Final = "trained_gpu_seconds"
"""Of `PROGRESS_JSON` and of the train answer: ranks times seconds in which steps were taken, of all attempts."""
PLAN_JSON: Final = "plan_json"
CHANNEL_JSON: Final = "channel_json"
PROGRESS_JSON: Final = "progress_json"
"""Of `PROGRESS`: a JSON object with the fields of `horovod_node.progress.Progress` of rank 0, `ranks` and `resets`."""
PACE_JSON: Final = "pace_json"
"""Of a node: a JSON list of `[rank, compute seconds, wait seconds]`, both of a step, for each of its ranks."""
INTERRUPTION: Final = "interruption"
"""Of a node that EC2 will take away: one of `INTERRUPTIONS`."""
INTERRUPTED_AT: Final = "interrupted_at"
"""When the node heard of it."""
CAPACITY_JSON: Final = "capacity_json"
"""
Of a run that looks for capacity: a JSON object with `number` and `of` (the attempt of the capacity plan, from 1),
`attempt` (its words for people), `since` (epoch seconds) and `refusal` (the provider's own words, '' so far).
"""
RESTARTS_JSON: Final = "restarts_json"
"""
Of a run: a JSON list of the attempts that were lost, each an object with `attempt`, `error`, `cause` and `at` (ISO
8601).
"""
FAILURE_JSON: Final = "failure_json"
RECEIPT_JSON: Final = "receipt_json"
RECEIPT_VERSION: Final = 2
"""Of a receipt; its fields are in `horovod_client/receipt.schema.json`."""
TIMES_JSON: Final = "times_json"
"""Of a run: a JSON object of its milestones so far, as in a receipt's `times`."""
PRICES_JSON: Final = "prices_json"
"""
Of a run: a JSON list of objects with `instance_type`, `market`, `zone` ('' for On-Demand), `usd` (an hour) and, for
On-Demand, `source`, for every type of its fleet, as they were when it got the fleet.
"""
PRICE_OF_CONSTRUCT: Final = "construct"
PRICE_OF_LIST: Final = "price list"
PRICE_OF_SUBMITTER: Final = "submitter"
PRICE_SOURCES: Final = (PRICE_OF_CONSTRUCT, PRICE_OF_LIST, PRICE_OF_SUBMITTER)
"""Where an On-Demand price comes from; the first that knows it counts."""
FAILED_AT: Final = "failed_at"

# What the state machine writes into the run's item when the ring is formed and prices are known.
USD_PER_HOUR: Final = "usd_per_hour"
"""What the ring's instances cost together."""
BILLED_FROM: Final = "billed_from"
"""When the nodes were asked for, which is when their bill can have begun."""
CEILING_USD: Final = "ceiling_usd"
CEILING_AT: Final = "ceiling_at"
"""When the run will have cost its ceiling."""
NOTICE: Final = "notice"
"""A sentence for people: what was not done, and why."""

# NODE's `state`, in the order in which a node passes them.
NODE_JOINED: Final = "joined"
"""Known to the ledger; fetching the script and the data."""
NODE_READY: Final = "ready"
"""Could start its ranks now: the barrier counts these."""
NODE_TRAINING: Final = "training"
NODE_DRAINING: Final = "draining"
"""EC2 will take it away: it leaves the ring at the next commit, and no new ring takes it."""
NODE_DONE: Final = "done"
"""All its ranks ended with exit code 0."""
NODE_LEFT: Final = "left"
"""It left the ring in order, before EC2 took it away."""
NODE_FAILED: Final = "failed"
NODE_STATES: Final = (NODE_JOINED, NODE_READY, NODE_TRAINING, NODE_DRAINING, NODE_DONE, NODE_LEFT, NODE_FAILED)

INTERRUPTION_NOTICE: Final = "instance-action"
"""EC2 takes the Spot instance back in about two minutes (instance metadata, `spot/instance-action`)."""
INTERRUPTION_REBALANCE: Final = "rebalance-recommendation"
"""It is more likely than usual that EC2 will (`events/recommendations/rebalance`)."""
INTERRUPTIONS: Final = (INTERRUPTION_NOTICE, INTERRUPTION_REBALANCE)

# RUN's `stage`, for people and the client.
STAGE_QUEUED: Final = "queued"
STAGE_STARTING: Final = "starting"
STAGE_JOINING: Final = "joining"
STAGE_TRAINING: Final = "training"
STAGE_SAVING: Final = "saving"
STAGE_SUCCEEDED: Final = "succeeded"
STAGE_FAILED: Final = "failed"

Task = Literal["ring", "train", "save"]
TASK_RING: Final[Task] = "ring"
TASK_TRAIN: Final[Task] = "train"
TASK_SAVE: Final[Task] = "save"


def lease_key(fleet: str) -> tuple[str, str]:
    """Name the lease of *fleet* as (partition key, sort key)."""
    return f"{FLEET_PREFIX}{fleet}", LEASE_SORT_KEY


def line_key(queue: str) -> tuple[str, str]:
    """Name the line of runs that wait for one of the fleets of *queue*."""
    return f"{QUEUE_PREFIX}{queue}", LINE_SORT_KEY


def run_key(run: str) -> tuple[str, str]:
    """Name the item of *run*."""
    return f"{RUN_PREFIX}{run}", RUN_SORT_KEY


def task_key(run: str, attempt: int, task: Task) -> tuple[str, str]:
    """Name the item that carries the task token of *task*."""
    return f"{RUN_PREFIX}{run}", f"{TASK_PREFIX}{attempt}#{task}"


def leader_key(run: str, attempt: int) -> tuple[str, str]:
    """Name the item that the leader of *attempt* wrote, under a condition, before it led."""
    return f"{RUN_PREFIX}{run}", f"{LEADER_PREFIX}{attempt}"


def node_key(run: str, attempt: int, node: str) -> tuple[str, str]:
    """Name the item of one node."""
    return f"{RUN_PREFIX}{run}", f"{NODE_PREFIX}{attempt}#{node}"


def plan_key(run: str, attempt: int) -> tuple[str, str]:
    """Name the item that holds the ring's plan."""
    return f"{RUN_PREFIX}{run}", f"{PLAN_PREFIX}{attempt}"


def channel_key(run: str, attempt: int) -> tuple[str, str]:
    """Name the item through which the nodes of an elastic ring find their leader's channel."""
    return f"{RUN_PREFIX}{run}", f"{CHANNEL_PREFIX}{attempt}"


def progress_key(run: str) -> tuple[str, str]:
    """Name the item that tells how far the training is."""
    return f"{RUN_PREFIX}{run}", PROGRESS_SORT_KEY


def failure_key(run: str, attempt: int, node: str) -> tuple[str, str]:
    """Name the item of the first failure that *node* saw."""
    return f"{RUN_PREFIX}{run}", f"{FAILURE_PREFIX}{attempt}#{node}"


def boot_key(run: str, node: str) -> tuple[str, str]:
    """Name the item through which a machine that has no agent yet gives a sign of life."""
    return f"{RUN_PREFIX}{run}", f"{BOOT_PREFIX}{node}"


def receipt_item_key(run: str) -> tuple[str, str]:
    """Name the item that holds the receipt of *run*."""
    return f"{RUN_PREFIX}{run}", RECEIPT_SORT_KEY


# --- logs and metrics -------------------------------------------------------------------------------------------------
# One log group a training; its streams are named after the run, the node, and who speaks.

LOG_AGENT: Final = "agent"
LOG_METRICS: Final = "metrics"
"""Lines in CloudWatch's embedded metric format."""
LOG_RANK_PREFIX: Final = "rank-"


def log_stream(run: str, node: str, speaker: str) -> str:
    """Name the log stream of one node's *speaker*: `LOG_AGENT`, `LOG_METRICS`, or `LOG_RANK_PREFIX` and a number."""
    return f"{run}/{node}/{speaker}"


METRIC_NAMESPACE: Final = "CdkHorovod"
METRIC_TRAINING: Final = "Training"
"""Dimension with the training's name (`ENV_TRAINING`)."""
METRIC_RUN: Final = "Run"
"""Dimension with the run's name; each metric is there with `METRIC_TRAINING` alone, and with both."""
METRIC_SAMPLES_PER_SECOND: Final = "SamplesPerSecond"
METRIC_STEP_SECONDS: Final = "StepSeconds"
"""One value for each step, so that CloudWatch gives percentiles."""
METRIC_RING_SIZE: Final = "RingSize"
METRIC_GPU_UTILIZATION: Final = "GpuUtilization"
METRIC_GPU_MEMORY: Final = "GpuMemoryUtilization"
METRIC_BYTES_READ: Final = "BytesRead"


# --- a run's settings -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """
    What the construct decided and the node obeys; JSON in the run's ledger item, one key a field.

    Args:
        model_bucket: Where the model goes.
        heartbeat_seconds: The state machine gives the leader up after this long without a heartbeat.
        first_step_seconds: The first training step must come this long after the ranks started.
        stall_seconds: Every later step must come this long after the one before.
        lease_seconds: How long a lease is valid after the leader renewed it.
        elastic_seconds: How long an elastic ring that has fewer GPUs than it may waits for more.
        keep_checkpoints: The newest so many of a run's checkpoints stay in S3.
    """

    model_bucket: str
    heartbeat_seconds: int
    first_step_seconds: int
    stall_seconds: int
    lease_seconds: int
    elastic_seconds: int
    keep_checkpoints: int


CLEAN_UP: Final = "#clean-up"
REAPER: Final = "#reaper"
"""These two hold a lease in place of a run while they empty its fleet; no run's name has a '#'."""


# --- the request ------------------------------------------------------------------------------------------------------

FieldKind = Literal["string", "whole number", "number", "object"]


@dataclass(frozen=True, kw_only=True)
class RequestField:
    """
    One field of the request, as the state machine, the client and the documentation all describe it.

    Args:
        name: Key in the execution's input.
        kind: JSON type that the value must have.
        required: Whether a request without it is refused.
        meaning: One sentence for people.
        s3_uri: Whether the value (or, for an object, every value in it) must be an `s3://bucket/key` address.
        least: Of a whole number: the smallest that is allowed.
        most: Of a whole number: the largest that is allowed, whatever the construct. Default: no limit.
    """

    name: str
    kind: FieldKind
    required: bool
    meaning: str
    s3_uri: bool = False
    least: int = 1
    most: int | None = None


SOURCE: Final = "source"
ENTRY_POINT: Final = "entry_point"
DATA: Final = "data"
HYPERPARAMETERS: Final = "hyperparameters"
MIN_GPUS: Final = "min_gpus"
MAX_RESTARTS: Final = "max_restarts"
RESUME_FROM: Final = "resume_from"
MAX_RUNTIME_SECONDS: Final = "max_runtime_seconds"
MAX_COST_USD: Final = "max_cost_usd"
ON_DEMAND_PRICES: Final = "on_demand_prices"

OWNER: Final = "owner"
PROJECT: Final = "project"

MOST_RESTARTS: Final = 20
"""A run that is lost more often than this will not end well."""
PRICE_LIST_REGIONS: Final = ("us-east-1", "eu-central-1", "ap-south-1")
"""Where the Price List Query API has endpoints (AWS General Reference, "AWS Price List endpoints and quotas")."""
LEAST_PRICE_USD: Final = 0.001
MOST_PRICE_USD: Final = 10_000
"""USD an hour. EC2's cheapest and dearest instances cost some 0.004 and 400: what lies outside is another unit."""
PRICE_RULE: Final = f"must be USD an hour, a number from {LEAST_PRICE_USD} to {MOST_PRICE_USD}"

REQUEST_FIELDS: Final[tuple[RequestField, ...]] = (
    RequestField(
        name=SOURCE,
        kind="string",
        required=True,
        s3_uri=True,
        meaning="S3 address of the script's folder as .tar.gz.",
    ),
    RequestField(
        name=ENTRY_POINT,
        kind="string",
        required=True,
        meaning="Path of the training script inside the archive.",
    ),
    RequestField(
        name=GPUS,
        kind="whole number",
        required=True,
        meaning="GPUs of the ring, one rank on each.",
    ),
    RequestField(
        name=MIN_GPUS,
        kind="whole number",
        required=False,
        meaning="The ring may begin with, and shrink to, this many GPUs; the script must be elastic. Default: gpus.",
    ),
    RequestField(
        name=DATA,
        kind="object",
        required=False,
        s3_uri=True,
        meaning="Channel name to S3 prefix; each becomes SM_CHANNEL_<NAME>.",
    ),
    RequestField(
        name=HYPERPARAMETERS,
        kind="object",
        required=False,
        meaning="Given to the script as --name value and as SM_HPS.",
    ),
    RequestField(
        name=MAX_RESTARTS,
        kind="whole number",
        required=False,
        least=0,
        most=MOST_RESTARTS,
        meaning="A run that loses its leader or a node that it needs starts again from its newest checkpoint at most "
        "this often.",
    ),
    RequestField(
        name=RESUME_FROM,
        kind="string",
        required=False,
        meaning="Name of a run whose newest checkpoint this one begins with.",
    ),
    RequestField(
        name=MAX_RUNTIME_SECONDS,
        kind="whole number",
        required=False,
        meaning="The run is stopped after this many seconds of training; at most the construct's max_runtime.",
    ),
    RequestField(
        name=MAX_COST_USD,
        kind="number",
        required=False,
        meaning="The run is stopped when its instances have cost this much; at most the construct's max_cost_usd.",
    ),
    RequestField(
        name=ON_DEMAND_PRICES,
        kind="object",
        required=False,
        meaning="Instance type to USD an hour, for types whose price neither the construct nor the Price List tells.",
    ),
    RequestField(
        name=OWNER,
        kind="string",
        required=False,
        meaning="Who the run is for: a tag of its instances, for cost allocation.",
    ),
    RequestField(
        name=PROJECT,
        kind="string",
        required=False,
        meaning="What the run is for: a tag of its instances, for cost allocation.",
    ),
)

REQUEST_LIMIT: Final = 50_000
"""
Characters of a request as JSON. Step Functions takes five times as much, but what describes an execution holds the
request once more, escaped, and must still fit into a state of the clean-up (262,144 bytes).
"""
REQUEST_TOO_LARGE: Final = (
    f"the request must be at most {REQUEST_LIMIT} characters of JSON: "
    "put large hyperparameters into a file of their own"
)
S3_URI_PATTERN: Final = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+$"
"""Bucket naming rules of S3 (3 to 63 of these characters), then a key or prefix."""
CHANNEL_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,64}$"
"""SageMaker's rule for channel names (CreateTrainingJob, Channel.ChannelName)."""
INSTANCE_TYPE_PATTERN: Final = r"^[a-z0-9-]{1,32}\.[a-z0-9-]{1,32}$"
"""Such as `g5.xlarge` and `u7i-12tb.224xlarge`."""


# --- keys in S3 -------------------------------------------------------------------------------------------------------


def source_key(digest: str) -> str:
    """Key in the data bucket of a packaged script with this SHA-256 *digest*; the same content is stored once."""
    return f"source/{digest}/source.tar.gz"


def model_key(run: str) -> str:
    """Key in the model bucket of the run's model: `/opt/ml/model`, packed as SageMaker packs it."""
    return f"runs/{run}/model.tar.gz"


def tensorboard_prefix(run: str) -> str:
    """Prefix in the model bucket of what the run's script wrote for TensorBoard."""
    return f"runs/{run}/tensorboard/"


CHECKPOINT_PREFIX: Final = "checkpoints/"
"""Of all checkpoints in the model bucket; they expire, models do not."""


def checkpoint_prefix(run: str, attempt: int | None = None, sequence: int | None = None) -> str:
    """
    Prefix in the model bucket of all checkpoints of *run*, of those of one attempt, or of one of them.

    Keys sort as checkpoints follow each other. A leader that was given up and does not know it writes below its own
    attempt, which never sorts behind a later one's.
    """
    prefix = f"{CHECKPOINT_PREFIX}{run}/"
    if attempt is not None:
        prefix += f"{attempt:04d}-"
        if sequence is not None:
            prefix += f"{sequence:08d}/"
    return prefix


CHECKPOINT_MANIFEST: Final = "manifest.json"
"""Below a checkpoint's prefix. Written last: a checkpoint without one is not there."""
CHECKPOINT_FILES: Final = "files/"
"""Below a checkpoint's prefix: what the script wrote, which may be called `manifest.json` too."""


def receipt_key(run: str) -> str:
    """Key in the model bucket of the run's receipt."""
    return f"runs/{run}/receipt.json"


# --- the connection ---------------------------------------------------------------------------------------------------
# One stack output a HorovodTraining, found by its description, whose value is a JSON object with these keys. It is all
# that a client needs to know.

CONNECTION_DESCRIPTION: Final = "cdk-horovod: how clients connect"
CONNECTION_VERSION: Final = "version"
CONNECTION_STATE_MACHINE: Final = "state_machine"
"""ARN of the run's state machine."""
CONNECTION_DATA_BUCKET: Final = "data_bucket"
"""Where packaged scripts and data go."""
CONNECTION_MODEL_BUCKET: Final = "model_bucket"
CONNECTION_LEDGER_TABLE: Final = "ledger_table"
CONNECTION_QUEUE: Final = "queue"
"""Name of the line in which runs wait for a fleet."""
CONNECTION_FLEETS: Final = "fleets"
"""List of objects with the keys `CONNECTION_FLEET`, …, `CONNECTION_TYPES`."""
CONNECTION_FLEET: Final = "fleet"
CONNECTION_MAX_GPUS: Final = "max_gpus"
CONNECTION_GPU_STEP: Final = "gpu_step"
CONNECTION_GROUP: Final = "group"
"""Of a fleet: name of its Auto Scaling group."""
CONNECTION_TYPES: Final = "types"
"""Of a fleet: JSON object of its instance types, each with its GPUs."""
CONNECTION_PRICED_TYPES: Final = "priced_types"
"""List of the types whose On-Demand prices the construct was given. Absent: requests may hold no prices, either."""
CONNECTION_LOG_GROUP: Final = "log_group"
"""CloudWatch log group of the nodes."""
CONNECTION_MAX_RUNTIME_SECONDS: Final = "max_runtime_seconds"
CONNECTION_MAX_COST_USD: Final = "max_cost_usd"
"""Absent when the construct sets no ceiling."""

# --- errors -----------------------------------------------------------------------------------------------------------
# The execution's `error`; its `cause` is one or more sentences for people.

ERROR_INVALID_REQUEST: Final = "InvalidRequest"
ERROR_DATA_NOT_FOUND: Final = "DataNotFound"
ERROR_QUEUE_TIMEOUT: Final = "QueueTimeout"
ERROR_RING_NOT_FORMED: Final = "RingNotFormed"
"""The nodes did not all come in time; the cause carries the scaling activity's own words."""
ERROR_LEADER_LOST: Final = "LeaderLost"
"""The leader's heartbeats stopped."""
ERROR_MAX_RUNTIME: Final = "MaxRuntimeReached"
ERROR_COST_CEILING: Final = "CostCeilingReached"
ERROR_LEASE_LOST: Final = "LeaseLost"
"""The lease expired or was reclaimed while the execution was alive: it no longer owns the fleet."""
ERROR_ABORTED: Final = "RunAborted"
"""The execution was stopped from outside, without an error of its own."""
ERROR_TIMED_OUT: Final = "RunTimedOut"
"""The execution reached its own time limit."""
ERROR_TRAINING_FAILED: Final = "TrainingFailed"
"""The user's script failed: the cause is its traceback, with rank, host and exit code."""
ERROR_TRAINING_STALLED: Final = "TrainingStalled"
ERROR_PREFLIGHT: Final = "PreflightRefused"
"""The script would have trained wrongly, so it was not started."""
ERROR_NODE_FAILED: Final = "NodeFailed"
"""Our side of a node failed: agent, ledger, download, upload."""
ERROR_MODEL_MISSING: Final = "ModelMissing"
"""The script ended well but left nothing in SM_MODEL_DIR, or the upload is not what the node said."""

# --- what a node answers ----------------------------------------------------------------------------------------------
# Output of the three task tokens; plain JSON objects with these keys.
#
#   ring   {"leader": {"node", "gpus"}, "gpus", "nodes": [NODE, …]}
#          with NODE = {"node", "address", "gpus", "instance_type", "zone", "market"}
#   train  {"ranks", "steps", "trained_gpu_seconds", "ring": RING}
#          with RING = {"elastic", "resets", "repeated_steps", "smallest", "largest", "interruptions", "resumed",
#          "slowest"}: the interruptions are a list of {"node", "kind", "at", "left_in_order"}, "resumed" names the run
#          and the step of the checkpoint that the attempt began with, "slowest" the rank that the others waited for
#   save   {"key", "bytes", "files"}

LEADER: Final = "leader"
NODES: Final = "nodes"
RANKS: Final = "ranks"
STEPS: Final = "steps"
RING: Final = "ring"
KEY: Final = "key"
BYTES: Final = "bytes"
FILES: Final = "files"

CAUSE_LIMIT: Final = 32_768
"""Characters of a cause that Step Functions takes (SendTaskFailure)."""

TOKEN_GONE: Final = ("TaskTimedOut", "TaskDoesNotExist", "InvalidToken")
"""Codes that answer a token whose task is over: the node must stop, not retry."""

RUN_TAG: Final = "cdk-horovod:run"
OWNER_TAG: Final = "cdk-horovod:owner"
PROJECT_TAG: Final = "cdk-horovod:project"
"""Tags of a run's instances, which can be made cost allocation tags in AWS Billing."""
TAG_RULE: Final = "must be 1 to 128 letters, digits, spaces and any of _.:/=+@-"
TAG_PATTERN: Final = r"^[A-Za-z0-9 _.:/=+@-]{1,128}$"
"""What EC2 and Auto Scaling take as a tag's value in every Region (without spaces that differ from ' ')."""

# --- exit codes of `python -m horovod_node` ---------------------------------------------------------------------------

EXIT_OK: Final = 0
EXIT_TRAINING_FAILED: Final = 1
"""The user's script failed."""
EXIT_USAGE: Final = 2
"""The environment is incomplete or contradictory."""
EXIT_NODE_FAILED: Final = 70
"""Our side failed (sysexits.h: EX_SOFTWARE)."""
EXIT_RELEASED: Final = 75
"""The lease went to another run or the state machine gave this attempt up (sysexits.h: EX_TEMPFAIL)."""
EXIT_PREFLIGHT: Final = 78
"""The script cannot train correctly in this image (sysexits.h: EX_CONFIG)."""


RUN_NAME_PATTERN: Final = r"^[A-Za-z0-9_-]{1,80}$"
"""What Step Functions takes as an execution's name and CloudWatch Logs can log; safe in ledger and S3 keys, too."""
ENTRY_POINT_PATTERN: Final = r"^(?!/)(?!.*\.\.)[A-Za-z0-9_./-]+\.py$"
"""A relative path of a Python file that does not leave the archive."""


@dataclass(frozen=True, kw_only=True)
class FleetSize:
    """
    What a fleet can hold.

    Args:
        max_gpus: GPUs that the fleet can hold.
        gpu_step: GPUs of its smallest instance; a run's GPUs must be a multiple of it.
    """

    max_gpus: int
    gpu_step: int

    def fits(self, gpus: float) -> bool:
        """Whether a run of *gpus* GPUs can have this fleet."""
        return gpus <= self.max_gpus and gpus % self.gpu_step == 0


def gpus_rule(fleets: Sequence[FleetSize]) -> str:
    """Say which numbers of GPUs a run may ask for."""
    sizes = dict.fromkeys(f"a multiple of {fleet.gpu_step} up to {fleet.max_gpus}" for fleet in fleets)
    return "must be " + " or ".join(sizes)


def check_request(
    request: Any, *, fleets: Sequence[FleetSize], max_runtime_seconds: int, max_cost_usd: float | None = None
) -> list[str]:
    """
    List what is wrong with *request*, in the words that the state machine uses; empty when nothing is.

    The state machine runs the same rules in JSONata (`cdk_horovod.workflow.request`); a test feeds both the same
    requests and compares the sentences.

    Args:
        request: The execution's input.
        fleets: The fleets that the run may get, at least one.
        max_runtime_seconds: The construct's limit.
        max_cost_usd: The construct's limit. Default: none.
    """
    if not isinstance(request, dict):
        return [f"the request must be an object, got {_shown(request)}"]
    if len(_shown(request)) > REQUEST_LIMIT:
        return [REQUEST_TOO_LARGE]
    known = [field.name for field in REQUEST_FIELDS]
    problems = [
        f"'{name}' is not a field of a request; its fields are {', '.join(known)}"
        for name in request
        if name not in known
    ]
    for field in REQUEST_FIELDS:
        if field.name not in request:
            if field.required:
                problems.append(f"'{field.name}' is missing ({field.meaning[:-1]})")
            continue
        problems += _check_field(field, request[field.name])
    if problems:
        return problems
    gpus = request[GPUS]
    if not any(fleet.fits(gpus) for fleet in fleets):
        problems.append(f"'{GPUS}' {gpus_rule(fleets)}, got {_shown(gpus)}")
    least = request.get(MIN_GPUS, gpus)
    if least > gpus:
        problems.append(f"'{MIN_GPUS}' must be at most 'gpus', which is {_shown(gpus)}, got {_shown(least)}")
    limits = {MAX_RUNTIME_SECONDS: max_runtime_seconds, MAX_COST_USD: max_cost_usd}
    for name, limit in limits.items():
        if limit is not None and request.get(name, 0) > limit:
            problems.append(f"'{name}' must be at most {_shown(limit)}, got {_shown(request[name])}")
    return problems


def _check_field(field: RequestField, value: Any) -> list[str]:
    if field.kind == "string":
        if not isinstance(value, str):
            return [f"'{field.name}' must be a string, got {_shown(value)}"]
        if field.s3_uri and not re.fullmatch(S3_URI_PATTERN, value):
            return [f"'{field.name}' must be an address like s3://bucket/key, got {value}"]
        if field.name == RESUME_FROM and not re.fullmatch(RUN_NAME_PATTERN, value):
            return [f"'{field.name}' must be a run's name, got {value}"]
        if field.name in (OWNER, PROJECT) and not re.fullmatch(TAG_PATTERN, value):
            return [f"'{field.name}' {TAG_RULE}, got {value}"]
        if field.name == ENTRY_POINT and not re.fullmatch(ENTRY_POINT_PATTERN, value):
            return [f"'{field.name}' must be a relative path of a .py file, got {value}"]
        return []
    if field.kind == "whole number":
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
            return [f"'{field.name}' must be a whole number, got {_shown(value)}"]
        if value < field.least:
            return [f"'{field.name}' must be at least {field.least}, got {_shown(value)}"]
        if field.most is not None and value > field.most:
            return [f"'{field.name}' must be at most {field.most}, got {_shown(value)}"]
        return []
    if field.kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return [f"'{field.name}' must be a number, got {_shown(value)}"]
        if value <= 0:
            return [f"'{field.name}' must be more than 0, got {_shown(value)}"]
        return []
    if not isinstance(value, dict):
        return [f"'{field.name}' must be an object, got {_shown(value)}"]
    problems = []
    for key, item in value.items() if field.s3_uri else ():
        if not re.fullmatch(CHANNEL_PATTERN, key):
            problems.append(f"'{field.name}' has a channel named {key}; use letters, digits, '.', '_' and '-'")
        elif not (isinstance(item, str) and re.fullmatch(S3_URI_PATTERN, item)):
            problems.append(f"'{field.name}.{key}' must be an address like s3://bucket/key, got {_shown(item)}")
    for key, item in value.items() if field.name == ON_DEMAND_PRICES else ():
        if not re.fullmatch(INSTANCE_TYPE_PATTERN, key):
            problems.append(f"'{field.name}' has an instance type named {key}; write it like g5.xlarge")
        elif (
            isinstance(item, bool) or not isinstance(item, int | float) or not LEAST_PRICE_USD <= item <= MOST_PRICE_USD
        ):
            problems.append(f"'{field.name}.{key}' {PRICE_RULE}, got {_shown(item)}")
    return problems


def _shown(value: Any) -> str:
    """Write *value* as JSONata's `$string` does: strings bare, everything else as compact JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(_numbered(value), separators=(",", ":"), ensure_ascii=False)
    except (RecursionError, ValueError):  # nested, or a whole number of more digits, than Python writes
        return "a value too large to show"


def _numbered(value: Any) -> Any:
    """JSONata knows one kind of number, and writes 16.0 as 16."""
    if isinstance(value, dict):
        return {key: _numbered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbered(item) for item in value]
    return int(value) if isinstance(value, float) and value % 1 == 0 and abs(value) < 1e15 else value
