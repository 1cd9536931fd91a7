"""The request: the input of an execution, as the state machine, the client and the documentation all describe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from horovod_node.contract.attributes import GPUS
from horovod_node.contract.prices import INSTANCE_TYPE_PATTERN, LEAST_PRICE_USD, MOST_PRICE_USD, PRICE_RULE
from horovod_node.contract.tags import TAG_PATTERN, TAG_RULE

FieldKind = Literal["string", "whole number", "number", "object"]


@dataclass(frozen=True, kw_only=True)
class ItemRule:
    """
    Rules for the keys and values of a field that is an object.

    Args:
        noun: What a key names, for people.
        pattern: Regular expression that a key matches.
        spelling: How to write a key, for people.
        rule: What a value must be, for people. Default: a value may be anything.
        value_pattern: Regular expression that a value, a string, matches. Default: a value with a rule is a number.
        least: Smallest number that a value may be.
        most: Largest number that a value may be.
    """

    noun: str
    pattern: str
    spelling: str
    rule: str = ""
    value_pattern: str = ""
    least: float = 0
    most: float = 0


@dataclass(frozen=True, kw_only=True)
class RequestField:
    """
    One field of the request, as the state machine, the client and the documentation all describe it.

    Args:
        name: Key in the execution's input.
        kind: JSON type that the value must have.
        required: Whether a request without it is refused.
        meaning: One sentence for people.
        pattern: Regular expression that a string matches. Default: any string.
        rule: What *pattern* means, for people.
        least: Smallest whole number that is allowed.
        most: Largest whole number that is allowed, independent of the construct. Default: no limit.
        items: Rules for the keys and values of an object. Default: anything.
    """

    name: str
    kind: FieldKind
    required: bool
    meaning: str
    pattern: str = ""
    rule: str = ""
    least: int = 1
    most: int | None = None
    items: ItemRule | None = None


SOURCE: Final = "source"
ENTRY_POINT: Final = "entry_point"
DATA: Final = "data"
HYPERPARAMETERS: Final = "hyperparameters"
MIN_GPUS: Final = "min_gpus"
MAX_RESTARTS: Final = "max_restarts"
RESUME_FROM: Final = "resume_from"
MODEL: Final = "model"
MODEL_REQUIRED: Final = "required"
MODEL_OPTIONAL: Final = "optional"
MAX_RUNTIME_SECONDS: Final = "max_runtime_seconds"
MAX_COST_USD: Final = "max_cost_usd"
ON_DEMAND_PRICES: Final = "on_demand_prices"
OWNER: Final = "owner"
PROJECT: Final = "project"

MOST_RESTARTS: Final = 20
"""Largest `max_restarts`: a run that is lost more often is unlikely ever to succeed."""

_BUCKET: Final = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
"""Bucket naming rules of S3: 3 to 63 of these characters."""
_IN_A_KEY: Final = r"[^\u0000-\u001f\u007f-\u009f\u2028\u2029]"
"""
Any character but control characters: S3 recommends to avoid them (S3 User Guide, "Naming Amazon S3 objects"), and
Python's and JavaScript's regular expressions treat them differently.
"""
S3_URI_PATTERN: Final = rf"{_BUCKET}/{_IN_A_KEY}+$"
S3_URI_RULE: Final = "must be an address like s3://bucket/key"
S3_FOLDER_PATTERN: Final = rf"{_BUCKET}(/{_IN_A_KEY}*)?$"
"""The prefix may be empty: the folder is then the whole bucket."""
S3_FOLDER_RULE: Final = "must be an address like s3://bucket/folder/"
RUN_NAME_RULE: Final = "must be 1 to 80 letters (a-z, A-Z), digits, '-' and '_'"
RUN_NAME_PATTERN: Final = r"^[A-Za-z0-9_-]{1,80}$"
"""Names that Step Functions and CloudWatch Logs accept, and that are safe in keys of the ledger and of S3."""
ENTRY_POINT_PATTERN: Final = r"^(?!/)(?!(.*/)?\.\./)[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+\.py$"
"""
Relative path of a Python file inside the archive. Any character is allowed but control characters, which Python's and
JavaScript's regular expressions treat differently.
"""
CHANNEL_PATTERN: Final = r"^(?![.]{1,2}$)[A-Za-z0-9_.-]{1,64}$"
"""
SageMaker's rule for channel names (CreateTrainingJob, Channel.ChannelName), without `.` and `..`, which cannot name a
folder.
"""
HYPERPARAMETER_PATTERN: Final = r"^[^=]+$"
"""The name becomes part of an environment variable's name, which ends at the first equals sign (environ(7))."""

REQUEST_FIELDS: Final[tuple[RequestField, ...]] = (
    RequestField(
        name=SOURCE,
        kind="string",
        required=True,
        pattern=S3_URI_PATTERN,
        rule=S3_URI_RULE,
        meaning="S3 address of the script's folder as .tar.gz.",
    ),
    RequestField(
        name=ENTRY_POINT,
        kind="string",
        required=True,
        pattern=ENTRY_POINT_PATTERN,
        rule="must be a relative path of a .py file",
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
        items=ItemRule(
            noun="a channel",
            pattern=CHANNEL_PATTERN,
            spelling="use letters (a-z, A-Z), digits, '.', '_' and '-'",
            rule=S3_FOLDER_RULE,
            value_pattern=S3_FOLDER_PATTERN,
        ),
        meaning="Channel name to S3 prefix; each becomes SM_CHANNEL_<NAME>.",
    ),
    RequestField(
        name=HYPERPARAMETERS,
        kind="object",
        required=False,
        items=ItemRule(
            noun="a hyperparameter",
            pattern=HYPERPARAMETER_PATTERN,
            spelling="use at least one character, and no '='",
        ),
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
        pattern=RUN_NAME_PATTERN,
        rule="must be a run's name",
        meaning="Name of a run whose newest checkpoint this one begins with.",
    ),
    RequestField(
        name=MODEL,
        kind="string",
        required=False,
        pattern=f"^({MODEL_REQUIRED}|{MODEL_OPTIONAL})$",
        rule=f"must be {MODEL_REQUIRED} or {MODEL_OPTIONAL}",
        meaning="Whether a run fails whose script leaves nothing in SM_MODEL_DIR. Default: required, so it does.",
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
        items=ItemRule(
            noun="an instance type",
            pattern=INSTANCE_TYPE_PATTERN,
            spelling="write it like g5.xlarge",
            rule=PRICE_RULE,
            least=LEAST_PRICE_USD,
            most=MOST_PRICE_USD,
        ),
        meaning="Instance type to USD an hour, for types whose price neither the construct nor the Price List tells.",
    ),
    RequestField(
        name=OWNER,
        kind="string",
        required=False,
        pattern=TAG_PATTERN,
        rule=TAG_RULE,
        meaning="Who the run is for: a tag of its instances, for cost allocation.",
    ),
    RequestField(
        name=PROJECT,
        kind="string",
        required=False,
        pattern=TAG_PATTERN,
        rule=TAG_RULE,
        meaning="What the run is for: a tag of its instances, for cost allocation.",
    ),
)

STARTED_BY: Final = "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"
"""
A field that every request may have, and that the workflow ignores. With it, Step Functions shows a run below the
execution that started it (Developer Guide, "Start workflow executions from a task state in Step Functions").
"""

REQUEST_LIMIT: Final = 40_000
"""
Most bytes of a request as JSON in UTF-8, both as it was written and as a state machine writes it (`jsonata_text`).

Linux accepts no argument or environment variable of more than 131,072 bytes (execve(2), MAX_ARG_STRLEN: 32 pages). A
script gets its hyperparameters in one variable, where they take up to three times as many bytes. Step Functions accepts
more. But the description of an execution contains the request again, escaped, and must fit into a state of the clean-up
(262,144 bytes).
"""
REQUEST_TOO_LARGE: Final = (
    f"the request must be at most {REQUEST_LIMIT} bytes of JSON in UTF-8: "
    "put large hyperparameters into a file of their own"
)
DEPTH_LIMIT: Final = 200
"""Most levels of nested objects and lists. Python's `json` accepts some 1,000, minus the depth of the call stack."""
REQUEST_TOO_DEEP: Final = f"the request must be nested at most {DEPTH_LIMIT} levels deep"
UNUSABLE_NUMBER: Final = "the request must hold finite numbers only, of at most 1.7e308"
UNUSABLE_TEXT_PATTERNS: Final = (
    r"(^|[^\x5c])(\x5c\x5c)*\x5cu(0000|d[89a-f][0-9a-f]{2})",
    r"[\ud800-\udfff]",
)
"""
JSON spellings of characters that cannot be passed to a process: NUL, which ends a string in C, and half of a surrogate
pair, which is not valid UTF-8. Some programs escape such a half, and some do not. Whole pairs are removed first
(`SURROGATE_PAIR_PATTERN`).
"""
SURROGATE_PAIR_PATTERN: Final = r"[\ud800-\udbff][\udc00-\udfff]"
UNUSABLE_TEXT: Final = (
    "the request must not hold a NUL character or half of a surrogate pair: no script can be given one"
)
SHOWN_LIMIT: Final = 200
"""Most characters of a wrong value that are shown: an execution's cause has room for 32,768."""
PROBLEMS_LIMIT: Final = 10
"""Most problems of a request that are listed."""
