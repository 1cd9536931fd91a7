"""
The contract: the names that cross process borders, between constructs, state machine, client, node and local cloud.

They stand here and nowhere else; the other packages import nothing but this from `horovod_node`. It needs only the
standard library, so that `cdk synth`, the client and the training image can share it without sharing dependencies.
`from horovod_node import contract` is the way in. One file a concept:

- `environment`: what user data puts into a node's environment.
- `node`: engines, markets, ports, states, interruptions.
- `run_id`: what tells a run from every other one.
- `ledger`, `attributes`: keys of the ledger's items, and what they hold.
- `settings`, `request`, `request_check`: what a run was asked to do, and the rules for asking.
- `prices`: who may tell what an instance costs, and within which bounds.
- `tasks`: the state machine's tasks that wait for a node, and the node's answers.
- `errors`, `exit_codes`: how a run fails, and how an agent ends.
- `s3_keys`, `connection`: where things are in the buckets, and how a client finds it all.
- `archive`: how the archives of scripts and models are unpacked.
- `logs`, `metrics`, `tags`: the names under which CloudWatch and AWS Billing show a run.

Stacks, images and clients are not replaced at the same moment. A name that those who do not know it may ignore can be
added at any time. When an item, a field or an answer changes its meaning, or goes, `CONTRACT_VERSION` is raised: a node
refuses a run of another version, and a client a stack of another version.
"""

from typing import Final

# Each alias would become an import statement of its own.
# isort: off
from horovod_node.contract.archive import (
    ARCHIVE_ENTRIES_LIMIT as ARCHIVE_ENTRIES_LIMIT,
    ARCHIVE_NAME_LIMIT as ARCHIVE_NAME_LIMIT,
    ArchiveRefused as ArchiveRefused,
    unpack_archive as unpack_archive,
)
from horovod_node.contract.attributes import (
    RUN as RUN,
    RUN_ID as RUN_ID,
    ATTEMPT as ATTEMPT,
    EXECUTION as EXECUTION,
    FLEET as FLEET,
    NODE as NODE,
    GPUS as GPUS,
    SEEN_AT as SEEN_AT,
    ACQUIRED_AT as ACQUIRED_AT,
    EXPIRES_AT as EXPIRES_AT,
    ENDS_BY as ENDS_BY,
    LEADER_MARKET as LEADER_MARKET,
    RECLAIMED_FROM as RECLAIMED_FROM,
    PLACE_PREFIX as PLACE_PREFIX,
    WAITER_PREFIX as WAITER_PREFIX,
    VERSION as VERSION,
    REQUEST_JSON as REQUEST_JSON,
    SETTINGS_JSON as SETTINGS_JSON,
    CREATED_AT as CREATED_AT,
    STAGE as STAGE,
    RECEIPT_AT as RECEIPT_AT,
    TIMES_JSON as TIMES_JSON,
    PRICES_JSON as PRICES_JSON,
    CAPACITY_JSON as CAPACITY_JSON,
    RESTARTS_JSON as RESTARTS_JSON,
    USD_PER_HOUR as USD_PER_HOUR,
    BILLED_FROM as BILLED_FROM,
    CEILING_USD as CEILING_USD,
    CEILING_AT as CEILING_AT,
    NOTICE as NOTICE,
    ADDRESS as ADDRESS,
    INSTANCE_TYPE as INSTANCE_TYPE,
    ZONE as ZONE,
    MARKET as MARKET,
    STATE as STATE,
    STEP as STEP,
    BOOTED_AT as BOOTED_AT,
    PULL_BEGAN_AT as PULL_BEGAN_AT,
    PULLED_AT as PULLED_AT,
    JOINED_AT as JOINED_AT,
    READY_AT as READY_AT,
    IMAGE as IMAGE,
    LIBRARY_VERSION as LIBRARY_VERSION,
    PACE_JSON as PACE_JSON,
    INTERRUPTION as INTERRUPTION,
    INTERRUPTED_AT as INTERRUPTED_AT,
    LEFT_AT as LEFT_AT,
    TOKEN as TOKEN,
    PLAN as PLAN,
    CHANNEL_JSON as CHANNEL_JSON,
    PROGRESS_JSON as PROGRESS_JSON,
    TRAINED_GPU_SECONDS as TRAINED_GPU_SECONDS,
    FAILURE_JSON as FAILURE_JSON,
    FAILED_AT as FAILED_AT,
    RECEIPT_VERSION as RECEIPT_VERSION,
    STAGE_QUEUED as STAGE_QUEUED,
    STAGE_STARTING as STAGE_STARTING,
    STAGE_JOINING as STAGE_JOINING,
    STAGE_TRAINING as STAGE_TRAINING,
    STAGE_SAVING as STAGE_SAVING,
    STAGE_SUCCEEDED as STAGE_SUCCEEDED,
    STAGE_FAILED as STAGE_FAILED,
)
from horovod_node.contract.connection import (
    CONNECTION_DESCRIPTION as CONNECTION_DESCRIPTION,
    CONNECTION_VERSION as CONNECTION_VERSION,
    CONNECTION_STATE_MACHINE as CONNECTION_STATE_MACHINE,
    CONNECTION_DATA_BUCKET as CONNECTION_DATA_BUCKET,
    CONNECTION_MODEL_BUCKET as CONNECTION_MODEL_BUCKET,
    CONNECTION_LEDGER_TABLE as CONNECTION_LEDGER_TABLE,
    CONNECTION_QUEUE as CONNECTION_QUEUE,
    CONNECTION_FLEETS as CONNECTION_FLEETS,
    CONNECTION_FLEET as CONNECTION_FLEET,
    CONNECTION_MAX_GPUS as CONNECTION_MAX_GPUS,
    CONNECTION_GPU_STEP as CONNECTION_GPU_STEP,
    CONNECTION_GROUP as CONNECTION_GROUP,
    CONNECTION_TYPES as CONNECTION_TYPES,
    CONNECTION_PRICED_TYPES as CONNECTION_PRICED_TYPES,
    CONNECTION_LOG_GROUP as CONNECTION_LOG_GROUP,
    CONNECTION_MAX_RUNTIME_SECONDS as CONNECTION_MAX_RUNTIME_SECONDS,
    CONNECTION_MAX_COST_USD as CONNECTION_MAX_COST_USD,
)
from horovod_node.contract.environment import (
    NODE_ENV_FILE as NODE_ENV_FILE,
    ENV_ENGINE as ENV_ENGINE,
    ENV_LEDGER_TABLE as ENV_LEDGER_TABLE,
    ENV_FLEET as ENV_FLEET,
    ENV_LEASE_SECONDS as ENV_LEASE_SECONDS,
    ENV_ML_ROOT as ENV_ML_ROOT,
    ENV_TRAINING as ENV_TRAINING,
    ENV_LOG_GROUP as ENV_LOG_GROUP,
    ENV_ECHO as ENV_ECHO,
    ENV_IMAGE as ENV_IMAGE,
    ENV_BOOTED_AT as ENV_BOOTED_AT,
    ENV_PULL_BEGAN_AT as ENV_PULL_BEGAN_AT,
    ENV_PULLED_AT as ENV_PULLED_AT,
    ENV_METADATA_ENDPOINT as ENV_METADATA_ENDPOINT,
    ENV_NODE_ID as ENV_NODE_ID,
    ENV_NODE_ADDRESS as ENV_NODE_ADDRESS,
    ENV_NODE_INTERFACE as ENV_NODE_INTERFACE,
    ENV_NODE_GPUS as ENV_NODE_GPUS,
    ENV_NODE_TYPE as ENV_NODE_TYPE,
    ENV_NODE_ZONE as ENV_NODE_ZONE,
    ENV_NODE_MARKET as ENV_NODE_MARKET,
    DEFAULT_ML_ROOT as DEFAULT_ML_ROOT,
)
from horovod_node.contract.errors import (
    ERROR_INVALID_REQUEST as ERROR_INVALID_REQUEST,
    ERROR_DATA_NOT_FOUND as ERROR_DATA_NOT_FOUND,
    ERROR_QUEUE_TIMEOUT as ERROR_QUEUE_TIMEOUT,
    ERROR_RING_NOT_FORMED as ERROR_RING_NOT_FORMED,
    ERROR_LEADER_LOST as ERROR_LEADER_LOST,
    ERROR_MAX_RUNTIME as ERROR_MAX_RUNTIME,
    ERROR_COST_CEILING as ERROR_COST_CEILING,
    ERROR_LEASE_LOST as ERROR_LEASE_LOST,
    ERROR_ABORTED as ERROR_ABORTED,
    ERROR_TIMED_OUT as ERROR_TIMED_OUT,
    ERROR_TRAINING_FAILED as ERROR_TRAINING_FAILED,
    ERROR_TRAINING_STALLED as ERROR_TRAINING_STALLED,
    ERROR_PREFLIGHT as ERROR_PREFLIGHT,
    ERROR_NODE_FAILED as ERROR_NODE_FAILED,
    ERROR_MODEL_MISSING as ERROR_MODEL_MISSING,
)
from horovod_node.contract.exit_codes import (
    EXIT_OK as EXIT_OK,
    EXIT_PART_OVER as EXIT_PART_OVER,
    EXIT_TRAINING_FAILED as EXIT_TRAINING_FAILED,
    EXIT_USAGE as EXIT_USAGE,
    EXIT_NODE_FAILED as EXIT_NODE_FAILED,
    EXIT_RELEASED as EXIT_RELEASED,
    EXIT_PREFLIGHT as EXIT_PREFLIGHT,
)
from horovod_node.contract.ledger import (
    PARTITION_KEY as PARTITION_KEY,
    SORT_KEY as SORT_KEY,
    TTL_ATTRIBUTE as TTL_ATTRIBUTE,
    FLEET_PREFIX as FLEET_PREFIX,
    QUEUE_PREFIX as QUEUE_PREFIX,
    RUN_PREFIX as RUN_PREFIX,
    NODES_PREFIX as NODES_PREFIX,
    LEASE_SORT_KEY as LEASE_SORT_KEY,
    LINE_SORT_KEY as LINE_SORT_KEY,
    RUN_SORT_KEY as RUN_SORT_KEY,
    TASK_PREFIX as TASK_PREFIX,
    LEADER_PREFIX as LEADER_PREFIX,
    NODE_PREFIX as NODE_PREFIX,
    PLAN_PREFIX as PLAN_PREFIX,
    CHANNEL_PREFIX as CHANNEL_PREFIX,
    PROGRESS_SORT_KEY as PROGRESS_SORT_KEY,
    FAILURE_PREFIX as FAILURE_PREFIX,
    BOOT_PREFIX as BOOT_PREFIX,
    ATTEMPT_DIGITS as ATTEMPT_DIGITS,
    CLEAN_UP as CLEAN_UP,
    REAPER as REAPER,
    lease_key as lease_key,
    line_key as line_key,
    run_key as run_key,
    task_key as task_key,
    leader_key as leader_key,
    node_key as node_key,
    plan_key as plan_key,
    channel_key as channel_key,
    progress_key as progress_key,
    failure_key as failure_key,
    boot_key as boot_key,
    nodes_partition as nodes_partition,
)
from horovod_node.contract.logs import (
    LOG_AGENT as LOG_AGENT,
    LOG_METRICS as LOG_METRICS,
    LOG_RANK_PREFIX as LOG_RANK_PREFIX,
    log_stream as log_stream,
)
from horovod_node.contract.metrics import (
    METRIC_NAMESPACE as METRIC_NAMESPACE,
    METRIC_TRAINING as METRIC_TRAINING,
    METRIC_RUN as METRIC_RUN,
    METRIC_SAMPLES_PER_SECOND as METRIC_SAMPLES_PER_SECOND,
    METRIC_STEP_SECONDS as METRIC_STEP_SECONDS,
    METRIC_RING_SIZE as METRIC_RING_SIZE,
    METRIC_GPU_UTILIZATION as METRIC_GPU_UTILIZATION,
    METRIC_GPU_MEMORY as METRIC_GPU_MEMORY,
    METRIC_BYTES_READ as METRIC_BYTES_READ,
    METRIC_CEILING_USED as METRIC_CEILING_USED,
)
from horovod_node.contract.node import (
    ENGINE_EC2 as ENGINE_EC2,
    ENGINE_LOCAL as ENGINE_LOCAL,
    ENGINES as ENGINES,
    ON_DEMAND as ON_DEMAND,
    SPOT as SPOT,
    MARKETS as MARKETS,
    RENDEZVOUS_PORT as RENDEZVOUS_PORT,
    CHANNEL_PORT as CHANNEL_PORT,
    SWITCH_FILE as SWITCH_FILE,
    NODE_JOINED as NODE_JOINED,
    NODE_READY as NODE_READY,
    NODE_SAVING as NODE_SAVING,
    NODE_TRAINING as NODE_TRAINING,
    NODE_DRAINING as NODE_DRAINING,
    NODE_DONE as NODE_DONE,
    NODE_LEFT as NODE_LEFT,
    NODE_FAILED as NODE_FAILED,
    NODE_STATES as NODE_STATES,
    INTERRUPTION_NOTICE as INTERRUPTION_NOTICE,
    INTERRUPTION_REBALANCE as INTERRUPTION_REBALANCE,
    INTERRUPTIONS as INTERRUPTIONS,
)
from horovod_node.contract.prices import (
    PRICE_OF_CONSTRUCT as PRICE_OF_CONSTRUCT,
    PRICE_OF_LIST as PRICE_OF_LIST,
    PRICE_OF_SUBMITTER as PRICE_OF_SUBMITTER,
    PRICE_SOURCES as PRICE_SOURCES,
    PRICE_LIST_REGIONS as PRICE_LIST_REGIONS,
    LEAST_PRICE_USD as LEAST_PRICE_USD,
    MOST_PRICE_USD as MOST_PRICE_USD,
    PRICE_RULE as PRICE_RULE,
    INSTANCE_TYPE_PATTERN as INSTANCE_TYPE_PATTERN,
)
from horovod_node.contract.request import (
    FieldKind as FieldKind,
    ItemRule as ItemRule,
    RequestField as RequestField,
    SOURCE as SOURCE,
    ENTRY_POINT as ENTRY_POINT,
    DATA as DATA,
    HYPERPARAMETERS as HYPERPARAMETERS,
    MIN_GPUS as MIN_GPUS,
    MAX_RESTARTS as MAX_RESTARTS,
    RESUME_FROM as RESUME_FROM,
    MAX_RUNTIME_SECONDS as MAX_RUNTIME_SECONDS,
    MAX_COST_USD as MAX_COST_USD,
    ON_DEMAND_PRICES as ON_DEMAND_PRICES,
    OWNER as OWNER,
    PROJECT as PROJECT,
    MOST_RESTARTS as MOST_RESTARTS,
    REQUEST_FIELDS as REQUEST_FIELDS,
    REQUEST_LIMIT as REQUEST_LIMIT,
    REQUEST_TOO_LARGE as REQUEST_TOO_LARGE,
    UNUSABLE_TEXT as UNUSABLE_TEXT,
    UNUSABLE_TEXT_PATTERNS as UNUSABLE_TEXT_PATTERNS,
    SURROGATE_PAIR_PATTERN as SURROGATE_PAIR_PATTERN,
    SHOWN_LIMIT as SHOWN_LIMIT,
    PROBLEMS_LIMIT as PROBLEMS_LIMIT,
    STARTED_BY as STARTED_BY,
    S3_URI_PATTERN as S3_URI_PATTERN,
    S3_URI_RULE as S3_URI_RULE,
    CHANNEL_PATTERN as CHANNEL_PATTERN,
    HYPERPARAMETER_PATTERN as HYPERPARAMETER_PATTERN,
    RUN_NAME_PATTERN as RUN_NAME_PATTERN,
    RUN_NAME_RULE as RUN_NAME_RULE,
    ENTRY_POINT_PATTERN as ENTRY_POINT_PATTERN,
)
from horovod_node.contract.request_check import (
    FleetSize as FleetSize,
    gpus_rule as gpus_rule,
    check_request as check_request,
)
from horovod_node.contract.run_id import (
    run_id as run_id,
    run_ids_prefix as run_ids_prefix,
    name_of as name_of,
    training_of as training_of,
    training_prefix as training_prefix,
)
from horovod_node.contract.s3_keys import (
    RUNS_PREFIX as RUNS_PREFIX,
    runs_of as runs_of,
    SOURCE_PATTERN as SOURCE_PATTERN,
    MODEL_ATTEMPT as MODEL_ATTEMPT,
    MODEL_FILES as MODEL_FILES,
    MODEL_UPLOAD as MODEL_UPLOAD,
    source_key as source_key,
    model_key as model_key,
    tensorboard_prefix as tensorboard_prefix,
    CHECKPOINT_PREFIX as CHECKPOINT_PREFIX,
    checkpoint_prefix as checkpoint_prefix,
    checkpoints_of as checkpoints_of,
    CHECKPOINT_MANIFEST as CHECKPOINT_MANIFEST,
    CHECKPOINT_FILES as CHECKPOINT_FILES,
    receipt_key as receipt_key,
)
from horovod_node.contract.settings import (
    RunSettings as RunSettings,
)
from horovod_node.contract.tags import (
    RUN_TAG as RUN_TAG,
    OWNER_TAG as OWNER_TAG,
    PROJECT_TAG as PROJECT_TAG,
    TAG_RULE as TAG_RULE,
    TAG_PATTERN as TAG_PATTERN,
)
from horovod_node.contract.tasks import (
    Task as Task,
    TASK_RING as TASK_RING,
    TASK_TRAIN as TASK_TRAIN,
    TASK_SAVE as TASK_SAVE,
    LEADER as LEADER,
    NODES as NODES,
    RANKS as RANKS,
    STEPS as STEPS,
    RING as RING,
    KEY as KEY,
    BYTES as BYTES,
    FILES as FILES,
    CAUSE_LIMIT as CAUSE_LIMIT,
    TOKEN_GONE as TOKEN_GONE,
)

# isort: on

CONTRACT_VERSION: Final = 4
"""Also in a run's item (`VERSION`) and in the connection (`CONNECTION_VERSION`)."""
