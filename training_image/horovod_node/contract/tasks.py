"""
The tasks of the state machine that wait for a node, and what the node answers.

The answers are the output of the task tokens, plain JSON objects:

  ring   {"leader": {"node", "gpus"}, "gpus", "nodes": [NODE, …]}
         with NODE = {"node", "address", "gpus", "instance_type", "zone", "market"}
  train  {"ranks", "steps", "trained_gpu_seconds", "ring": RING}
         with RING = {"elastic", "resets", "repeated_steps", "smallest", "largest", "interruptions", "resumed",
         "slowest"}: the interruptions are a list of {"node", "kind", "at", "left_in_order"}, "resumed" names the run
         and the step of the checkpoint that the attempt began with, "slowest" the rank that the others waited for
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
"""Characters of a cause that Step Functions takes (SendTaskFailure)."""

TOKEN_GONE: Final = ("TaskTimedOut", "TaskDoesNotExist", "InvalidToken")
"""Codes that answer a token whose task is over: it is never used again."""
