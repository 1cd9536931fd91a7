"""What a node is: where it comes from, where it listens, the states it passes, and what EC2 announces to it."""

from __future__ import annotations

from typing import Final

ENGINE_EC2: Final = "ec2"
ENGINE_LOCAL: Final = "local"
ENGINES: Final = (ENGINE_EC2, ENGINE_LOCAL)

ON_DEMAND: Final = "on-demand"
SPOT: Final = "spot"
MARKETS: Final = (ON_DEMAND, SPOT)
"""As instance metadata's `instance-life-cycle` spells them."""

RENDEZVOUS_PORT: Final = 29400
"""Where the leader serves Horovod's rendezvous, on its private address."""
CHANNEL_PORT: Final = 29401
"""Where the leader of an elastic ring takes its followers' connections, on the same address."""

SWITCH_FILE: Final = "/usr/local/sbin/cdk-horovod-dead-mans-switch"
"""Where user data leaves the dead-man's switch, a unit of its own; the local cloud runs the same script."""

# The states of a node, in the order in which it passes them.
NODE_JOINED: Final = "joined"
"""Known to the ledger; fetching the script and the data."""
NODE_READY: Final = "ready"
"""Could start its ranks now: the barrier counts these."""
NODE_TRAINING: Final = "training"
NODE_DRAINING: Final = "draining"
"""EC2 will take it away: it leaves the ring at the next commit, and no new ring takes it."""
NODE_DONE: Final = "done"
"""All its ranks ended with exit code 0."""
NODE_SAVING: Final = "saving"
"""The leader brings the model to S3; the state machine has its answer to the training, so no other node is needed."""
NODE_LEFT: Final = "left"
"""It left the ring in order, before EC2 took it away."""
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
"""EC2 takes the Spot instance back in about two minutes (instance metadata, `spot/instance-action`)."""
INTERRUPTION_REBALANCE: Final = "rebalance-recommendation"
"""It is more likely than usual that EC2 will (`events/recommendations/rebalance`)."""
INTERRUPTIONS: Final = (INTERRUPTION_NOTICE, INTERRUPTION_REBALANCE)
