"""
The ledger: one DynamoDB table, with partition key `pk` and sort key `sk`, both strings.

  pk            sk                       what
  FLEET#fleet   LEASE                    who holds the fleet, and until when
  QUEUE#queue   LINE                     the runs that wait, as two attributes each: PLACE#run and WAITER#run
  RUN#run       RUN                      the request, the settings, the stage, the price
  RUN#run       TASK#attempt#task        a task token of the state machine, waiting for a node's answer
  RUN#run       LEADER#attempt           the node that leads (conditional write: there is one)
  RUN#run       NODE#attempt#node        a node: address, GPUs, market, zone, state, steps, last sign of life
  RUN#run       PLAN#attempt             the ring: hosts in rank order
  RUN#run       CHANNEL#attempt          of an elastic ring: where the leader's channel is, and its key
  RUN#run       PROGRESS                 how far the training is, for people; written by the leader
  RUN#run       FAILURE#attempt#node     the first failure that a node saw
  RUN#run       BOOT#node                a machine that pulls the image, before its agent is there
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

CLEAN_UP: Final = "#clean-up"
REAPER: Final = "#reaper"
"""These two hold a lease in place of a run while they empty its fleet; no run's name has a '#'."""


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
