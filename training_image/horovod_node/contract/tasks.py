"""
The tasks of the state machine that wait for a node, and the node's answers.

The answers are the output of the task tokens, plain JSON objects:

  ring   {"leader": {"node", "gpus"}, "gpus", "nodes": [NODE, …]}
         with NODE = {"node", "address", "gpus", "instance_type", "zone", "market"}
  train  {"ranks", "steps", "trained_gpu_seconds", "ring": RING}
         with RING = {"elastic", "resets", "repeated_steps", "smallest", "largest", "interruptions", "resumed",
         "slowest"}; "interruptions" is a list of {"node", "kind", "at", "left_in_order"}, "resumed" names the run and
         the step of the checkpoint that the attempt began with, "slowest" the rank that the others waited for
  save   {"key", "bytes", "files"}
"""

from __future__ import annotations

from typing import Final, Literal

Task = Literal["ring", "train", "save"]
TASK_RING: Final[Task] = "ring"
TASK_TRAIN: Final[Task] = "train"
TASK_SAVE: Final[Task] = "save"

LEADER: Final = "leader"
NODES: Final = "nodes"
RANKS: Final = "ranks"
STEPS: Final = "steps"
RING: Final = "ring"
KEY: Final = "key"
BYTES: Final = "bytes"
FILES: Final = "files"

CAUSE_LIMIT: Final = 32_768
"""Most characters of a cause that Step Functions accepts (SendTaskFailure)."""

TOKEN_GONE: Final = ("TaskTimedOut", "TaskDoesNotExist", "InvalidToken")
"""Error codes for a token whose task is over; such a token is never used again."""
