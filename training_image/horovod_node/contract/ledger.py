"""
The ledger: one DynamoDB table of one training, with partition key `pk` and sort key `sk`, both strings.

  pk                     sk                       what
  FLEET#fleet            LEASE                    who holds the fleet, and until when
  QUEUE#queue            LINE                     the queued runs, two attributes each: PLACE#run and WAITER#run
  RUN#run_id             RUN                      the request, the settings, the stage, the price
  NODES#fleet#run_id     LEADER#attempt           the node that leads (conditional write: there is one)
  NODES#fleet#run_id     NODE#attempt#node        a node: address, GPUs, market, zone, state, steps, last sign of life
  NODES#fleet#run_id     PLAN#attempt             the ring: hosts in rank order
  NODES#fleet#run_id     PROGRESS                 the training's progress, for people; written by the leader
  NODES#fleet#run_id     FAILURE#attempt#node     the first failure that a node saw
  NODES#fleet#run_id     BOOT#node                an instance that pulls the image, before its agent starts
  SECRETS#fleet#run_id   TASK#attempt#task        a task token of the state machine, waiting for a node's answer
  SECRETS#fleet#run_id   CHANNEL#attempt          address and key of an elastic ring's signed channel

Permissions follow the partitions, because IAM can restrict partition keys (`dynamodb:LeadingKeys`) but not sort keys.
State machines write RUN#, and nodes only read it. Nodes read and write NODES# and SECRETS# of their own fleet only,
because the user's script has the node's permissions. A reader of SECRETS# can answer for the run or join its ring, so
people who watch runs may not read it.

`run_id` is that of `horovod_node.contract.run_id`. Attempts have at least four digits, so that sort keys are in the
order of attempts.
"""

from __future__ import annotations

from typing import Final

from horovod_node.contract.tasks import Task

PARTITION_KEY: Final = "pk"
SORT_KEY: Final = "sk"
TTL_ATTRIBUTE: Final = "remove_at"
"""Epoch seconds after which DynamoDB may drop the item."""

FLEET_PREFIX: Final = "FLEET#"
QUEUE_PREFIX: Final = "QUEUE#"
RUN_PREFIX: Final = "RUN#"
NODES_PREFIX: Final = "NODES#"
SECRETS_PREFIX: Final = "SECRETS#"
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
ATTEMPT_DIGITS: Final = 4
"""Digits of an attempt in a sort key, with leading zeros."""

CLEAN_UP: Final = "#clean-up"
REAPER: Final = "#reaper"
"""Holders of a lease in place of a run, while they empty its fleet. No run has this name: names have no '#'."""


def lease_key(fleet: str) -> tuple[str, str]:
    """Return the key of the lease of *fleet* as (partition key, sort key)."""
    return f"{FLEET_PREFIX}{fleet}", LEASE_SORT_KEY


def queue_key(queue: str) -> tuple[str, str]:
    """Return the key of the item that holds the runs in *queue*."""
    return f"{QUEUE_PREFIX}{queue}", LINE_SORT_KEY


def run_key(run_id: str) -> tuple[str, str]:
    """Return the key of a run's item."""
    return f"{RUN_PREFIX}{run_id}", RUN_SORT_KEY


def nodes_partition(fleet: str, run_id: str) -> str:
    """Return the partition key of the items that the nodes of *fleet* read and write for a run."""
    return f"{NODES_PREFIX}{fleet}#{run_id}"


def secrets_partition(fleet: str, run_id: str) -> str:
    """Return the partition key of the secrets by which the nodes of *fleet* act for a run."""
    return f"{SECRETS_PREFIX}{fleet}#{run_id}"


def task_key(fleet: str, run_id: str, attempt: int, task: Task) -> tuple[str, str]:
    """Return the key of the item that holds the task token of *task*."""
    return secrets_partition(fleet, run_id), f"{TASK_PREFIX}{_padded(attempt)}#{task}"


def leader_key(fleet: str, run_id: str, attempt: int) -> tuple[str, str]:
    """Return the key of the item whose conditional write elects the leader of *attempt*."""
    return nodes_partition(fleet, run_id), f"{LEADER_PREFIX}{_padded(attempt)}"


def node_key(fleet: str, run_id: str, attempt: int, node: str) -> tuple[str, str]:
    """Return the key of a node's item; with '' for *node*, the sort key is the prefix of all nodes of *attempt*."""
    return nodes_partition(fleet, run_id), f"{NODE_PREFIX}{_padded(attempt)}#{node}"


def plan_key(fleet: str, run_id: str, attempt: int) -> tuple[str, str]:
    """Return the key of the item that holds the ring's plan."""
    return nodes_partition(fleet, run_id), f"{PLAN_PREFIX}{_padded(attempt)}"


def channel_key(fleet: str, run_id: str, attempt: int) -> tuple[str, str]:
    """Return the key of the item by which followers of an elastic ring find the leader's signed channel."""
    return secrets_partition(fleet, run_id), f"{CHANNEL_PREFIX}{_padded(attempt)}"


def progress_key(fleet: str, run_id: str) -> tuple[str, str]:
    """Return the key of the item that holds the training's progress."""
    return nodes_partition(fleet, run_id), PROGRESS_SORT_KEY


def failure_key(fleet: str, run_id: str, attempt: int, node: str) -> tuple[str, str]:
    """Return the key of the first failure that *node* saw; with '' for *node*, the sort key is the attempt's prefix."""
    return nodes_partition(fleet, run_id), f"{FAILURE_PREFIX}{_padded(attempt)}#{node}"


def boot_key(fleet: str, run_id: str, node: str) -> tuple[str, str]:
    """Return the key of the item that an instance's boot script writes before its agent starts."""
    return nodes_partition(fleet, run_id), f"{BOOT_PREFIX}{node}"


def _padded(attempt: int) -> str:
    return f"{attempt:0{ATTEMPT_DIGITS}d}"
