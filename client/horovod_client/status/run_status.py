"""What a run is doing, as one value: what the ledger, Step Functions and the prices together say of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from horovod_client.status.capacity import CapacitySearch, LostAttempt

# States of a Step Functions execution that the client has to tell apart; any other one is an end without a model.
RUNNING: Final = "RUNNING"
PENDING_REDRIVE: Final = "PENDING_REDRIVE"
SUCCEEDED: Final = "SUCCEEDED"
FAILED: Final = "FAILED"
"""It ended by its own state machine, which any other end did not."""

# What a run is at, finer than the ledger's stages; the order is that of a run.
PHASE_QUEUE: Final = "queue"
PHASE_CAPACITY: Final = "capacity"
"""Nodes were asked for, and not all have been started."""
PHASE_BOOT: Final = "boot"
PHASE_PULL: Final = "image pull"
PHASE_JOIN: Final = "joining"
PHASE_TRAIN: Final = "training"
PHASE_SAVE: Final = "saving"
PHASE_TERMINATE: Final = "terminating"
PHASE_END: Final = "ended"
PHASES: Final = (
    PHASE_QUEUE,
    PHASE_CAPACITY,
    PHASE_BOOT,
    PHASE_PULL,
    PHASE_JOIN,
    PHASE_TRAIN,
    PHASE_SAVE,
    PHASE_TERMINATE,
    PHASE_END,
)

# A node's `state` is one of `NODE_STATES` of the contract, or, before its agent is there, one of these.
NODE_STARTED: Final = "started"
"""EC2 has started it; it has not spoken yet."""
NODE_PULLING: Final = "pulling the image"


def is_over(state: str) -> bool:
    """
    Tell whether an execution has ended, well or not.

    Args:
        state: Its state, as Step Functions names it.
    """
    return state not in (RUNNING, PENDING_REDRIVE)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """
    Who holds a fleet that a run waits for.

    Args:
        fleet: The fleet.
        run: The run that holds it, or what cleans up after one (`#clean-up`, `#reaper`).
        since: Epoch seconds at which it got the fleet.
    """

    fleet: str
    run: str
    since: int | None = None


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """
    One node of a run's present attempt.

    Args:
        node: Its name; on EC2 the instance's id.
        state: One of the contract's `NODE_STATES`, or `NODE_STARTED`, `NODE_PULLING`.
        gpus: Its GPUs.
        instance_type: Such as `g5.xlarge`.
        market: `spot` or `on-demand`; empty while it is not known.
        zone: Such as `eu-west-1a`.
        seen_at: Epoch seconds of its last sign of life; None when it gave none.
        started_at: Epoch seconds at which it booted, as far as is known.
        step: Steps of its slowest rank.
        leads: Whether it is the leader.
        interruption: What EC2 announced to it, one of the contract's `INTERRUPTIONS`; empty for nothing.
        usd_per_hour: Its price, if it is known.
    """

    node: str
    state: str
    gpus: int
    instance_type: str
    market: str
    zone: str
    seen_at: float | None = None
    started_at: float | None = None
    step: int = 0
    leads: bool = False
    interruption: str = ""
    usd_per_hour: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """
    How far the training is.

    Args:
        step: Steps done.
        steps: Steps of the whole training, if the script tells.
        epoch: The epoch in work, from 1.
        epochs: How many there will be.
        loss: The running epoch's.
        samples_per_second: Of the whole ring.
        ranks: Of the whole ring.
        resets: How often the ring was formed anew.
        eta_seconds: How long the rest will take at the pace so far; None when *steps* is not known.
    """

    step: int
    steps: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    ranks: int | None = None
    resets: int = 0
    eta_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Spend:
    """
    What the run's instances have cost so far, by what is known of their starts and prices.

    Args:
        usd: So far.
        usd_per_hour: Of the nodes that are there now.
        ceiling_usd: The most that the run may cost; None for no ceiling.
        on_demand_usd: What the same would have cost On-Demand; known when the run has ended.
        saved_usd: What Spot saved; known when the run has ended.
        unpriced: Nodes whose price is not known, and which the amounts leave out.
    """

    usd: float
    usd_per_hour: float
    ceiling_usd: float | None = None
    on_demand_usd: float | None = None
    saved_usd: float | None = None
    unpriced: int = 0


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """
    What a run is doing.

    Args:
        run: Name of the run.
        state: State of the execution: `RUNNING`, `SUCCEEDED`, `FAILED`, `TIMED_OUT`, `ABORTED`, `PENDING_REDRIVE`.
        stage: What the run is at, one of `STAGE_*` in `horovod_node.contract`; None until the state machine has checked
            the request.
        phase: The same, finer: one of `PHASES`; None while *stage* is.
        error: Name of the error that ended the run, if one did.
        cause: What that error says.
        model_uri: S3 address of the model; None unless the run succeeded.
        notice: What was not done for the run, and why: a sentence for people.
        place: Where the run stands in the queue for a fleet: 1 is next; None when it does not wait.
        holders: Who holds the fleets that the run waits for.
        capacity: The attempt to get nodes that the run makes; None when it makes none.
        restarts: The attempts that were lost so far, after each of which the run started again.
        gpus: GPUs that were asked for; None until the request is recorded.
        started_at: Epoch seconds at which the execution began.
        nodes: The nodes of the present attempt, those that have not joined among them.
        progress: How far the training is; None before its first step.
        spend: What it has cost; None when no price is known.
    """

    run: str
    state: str
    stage: str | None = None
    phase: str | None = None
    error: str | None = None
    cause: str | None = None
    model_uri: str | None = None
    notice: str | None = None
    place: int | None = None
    holders: tuple[Holder, ...] = ()
    capacity: CapacitySearch | None = None
    restarts: tuple[LostAttempt, ...] = ()
    gpus: int | None = None
    started_at: float | None = None
    nodes: tuple[NodeStatus, ...] = ()
    progress: TrainingProgress | None = None
    spend: Spend | None = None

    def __str__(self) -> str:
        """Write it in one line, for who prints it; its fields are what programs read."""
        from horovod_client.status.describe import describe_run

        return describe_run(self, now=time.time())

    @property
    def ended(self) -> bool:
        """Whether the run is over, well or not."""
        return is_over(self.state)

    @property
    def succeeded(self) -> bool:
        """Whether the run left a model."""
        return self.state == SUCCEEDED
