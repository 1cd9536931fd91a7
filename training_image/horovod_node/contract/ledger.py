"""
The ledger: one DynamoDB table of one training, with partition key `pk` and sort key `sk`, both strings.

  pk                     sk                       what
  FLEET#fleet            LEASE                    who holds the fleet, and until when
  QUEUE#queue            LINE                     the runs that wait, two attributes each: PLACE#run and WAITER#run
  RUN#run_id             RUN                      the request, the settings, the stage, the price
  NODES#fleet#run_id     LEADER#attempt           the node that leads (conditional write: there is one)
  NODES#fleet#run_id     NODE#attempt#node        a node: address, GPUs, market, zone, state, steps, last sign of life
  NODES#fleet#run_id     PLAN#attempt             the ring: hosts in rank order
  NODES#fleet#run_id     PROGRESS                 how far the training is, for people; written by the leader
  NODES#fleet#run_id     FAILURE#attempt#node     the first failure that a node saw
  NODES#fleet#run_id     BOOT#node                a machine that pulls the image, before its agent is there
  SECRETS#fleet#run_id   TASK#attempt#task        a task token of the state machine, waiting for a node's answer
  SECRETS#fleet#run_id   CHANNEL#attempt          of an elastic ring: where the leader's channel is, and its key

The partition says who may read and write. RUN# belongs to the state machines; nodes only read it. A fleet's nodes read
and write the NODES# and SECRETS# partitions of their own fleet and no other's: a node runs the user's script with its
own permissions. Whoever reads SECRETS# can answer for the run or join its ring, so people who watch runs do not read
it. IAM knows partition keys (`dynamodb:LeadingKeys`), not sort keys.

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
"""Of an attempt in a sort key, with leading zeros."""

CLEAN_UP: Final = "#clean-up"
REAPER: Final = "#reaper"
"""These two hold a lease in place of a run while they empty its fleet; no run's name has a '#'."""


def lease_key(fleet: str) -> tuple[str, str]:
    """Name the lease of *fleet* as (partition key, sort key)."""
    return f"{FLEET_PREFIX}{fleet}", LEASE_SORT_KEY


def queue_key(queue: str) -> tuple[str, str]:
    """Name the queue of runs that wait for one of the fleets of *queue*."""
    return f"{QUEUE_PREFIX}{queue}", LINE_SORT_KEY


def run_key(run_id: str) -> tuple[str, str]:
    """Name the item of a run."""
    return f"{RUN_PREFIX}{run_id}", RUN_SORT_KEY


def nodes_partition(fleet: str, run_id: str) -> str:
    """Name the partition of what the nodes of *fleet* write for a run, and of what is meant for them."""
    return f"{NODES_PREFIX}{fleet}#{run_id}"


def secrets_partition(fleet: str, run_id: str) -> str:
    """Name the partition of what lets the nodes of *fleet*, and nobody else, act for a run."""
    return f"{SECRETS_PREFIX}{fleet}#{run_id}"


def task_key(fleet: str, run_id: str, attempt: int, task: Task) -> tuple[str, str]:
    """Name the item that carries the task token of *task*."""
    return secrets_partition(fleet, run_id), f"{TASK_PREFIX}{_padded(attempt)}#{task}"


def leader_key(fleet: str, run_id: str, attempt: int) -> tuple[str, str]:
    """Name the item that the leader of *attempt* wrote, under a condition, before it led."""
    return nodes_partition(fleet, run_id), f"{LEADER_PREFIX}{_padded(attempt)}"


def node_key(fleet: str, run_id: str, attempt: int, node: str) -> tuple[str, str]:
    """Name the item of one node; with '' for *node*, what those of *attempt* begin with."""
    return nodes_partition(fleet, run_id), f"{NODE_PREFIX}{_padded(attempt)}#{node}"


def plan_key(fleet: str, run_id: str, attempt: int) -> tuple[str, str]:
    """Name the item that holds the ring's plan."""
    return nodes_partition(fleet, run_id), f"{PLAN_PREFIX}{_padded(attempt)}"


def channel_key(fleet: str, run_id: str, attempt: int) -> tuple[str, str]:
    """Name the item through which the nodes of an elastic ring find their leader's channel."""
    return secrets_partition(fleet, run_id), f"{CHANNEL_PREFIX}{_padded(attempt)}"


def progress_key(fleet: str, run_id: str) -> tuple[str, str]:
    """Name the item that tells how far the training is."""
    return nodes_partition(fleet, run_id), PROGRESS_SORT_KEY


def failure_key(fleet: str, run_id: str, attempt: int, node: str) -> tuple[str, str]:
    """Name the item of the first failure that *node* saw; with '' for *node*, what those of *attempt* begin with."""
    return nodes_partition(fleet, run_id), f"{FAILURE_PREFIX}{_padded(attempt)}#{node}"


def boot_key(fleet: str, run_id: str, node: str) -> tuple[str, str]:
    """Name the item through which a machine that has no agent yet gives a sign of life."""
    return nodes_partition(fleet, run_id), f"{BOOT_PREFIX}{node}"


def _padded(attempt: int) -> str:
    return f"{attempt:0{ATTEMPT_DIGITS}d}"
