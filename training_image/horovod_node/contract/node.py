"""Properties of a node: its engine, market, ports, states, and the interruptions that EC2 announces."""

from __future__ import annotations

from typing import Final

ENGINE_EC2: Final = "ec2"
ENGINE_ECS: Final = "ecs"
ENGINE_LOCAL: Final = "local"
ENGINES: Final = (ENGINE_EC2, ENGINE_ECS, ENGINE_LOCAL)

ON_DEMAND: Final = "on-demand"
SPOT: Final = "spot"
MARKETS: Final = (ON_DEMAND, SPOT)
"""Spelled as in instance metadata, `instance-life-cycle`."""

RENDEZVOUS_PORT: Final = 29400
"""Port of Horovod's rendezvous server, on the leader's private address."""
CHANNEL_PORT: Final = 29401
"""Port on which an elastic leader accepts its followers' connections, on the same address."""

SWITCH_FILE: Final = "/usr/local/sbin/cdk-horovod-dead-mans-switch"
"""Where user data puts the dead-man's switch, which runs as a systemd unit; the local cloud runs the same script."""
PART_OVER_FILE: Final = ".part-over"
"""
File in the ML root of an ECS node, by which its agent asks the instance to terminate itself: what `EXIT_PART_OVER` says
on EC2. On ECS the agent must not exit, because ECS would start it again.
"""

# The states of a node, in the order in which it passes them.
NODE_JOINED: Final = "joined"
"""The node is in the ledger, and downloads the script and the data."""
NODE_READY: Final = "ready"
"""The node can start its ranks: the barrier counts nodes in this state."""
NODE_TRAINING: Final = "training"
NODE_DRAINING: Final = "draining"
"""EC2 will interrupt the node: it leaves the ring at the next commit, and joins no new ring."""
NODE_DONE: Final = "done"
"""All ranks of the node ended with exit code 0."""
NODE_SAVING: Final = "saving"
"""The leader uploads the model. It has answered the train task, so no other node is needed."""
NODE_LEFT: Final = "left"
"""The node left the ring at a commit, before EC2 interrupted it."""
NODE_FAILED: Final = "failed"
NODE_STATES: Final = (
    NODE_JOINED,
    NODE_READY,
    NODE_TRAINING,
    NODE_DRAINING,
    NODE_DONE,
    NODE_SAVING,
    NODE_LEFT,
    NODE_FAILED,
)

INTERRUPTION_NOTICE: Final = "instance-action"
"""EC2 interrupts the Spot instance in about two minutes (instance metadata, `spot/instance-action`)."""
INTERRUPTION_REBALANCE: Final = "rebalance-recommendation"
"""The Spot instance is at an elevated risk of interruption (`events/recommendations/rebalance`)."""
INTERRUPTIONS: Final = (INTERRUPTION_NOTICE, INTERRUPTION_REBALANCE)
