"""The status of a run, combined from Step Functions, the ledger and prices."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from horovod_client.status.capacity import CapacitySearch, LostAttempt

# States of a Step Functions execution that the client distinguishes; in any other state the run ended without a model.
RUNNING: Final = "RUNNING"
PENDING_REDRIVE: Final = "PENDING_REDRIVE"
SUCCEEDED: Final = "SUCCEEDED"
FAILED: Final = "FAILED"
"""The state machine itself ended the run; in other states without a model, something else did."""

# Phases of a run, finer than the ledger's stages, in their order.
PHASE_QUEUE: Final = "queue"
PHASE_CAPACITY: Final = "capacity"
"""Nodes were requested, and not all have started."""
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

# Before its agent starts, a node's `state` is one of these; later it is one of the contract's `NODE_STATES`.
NODE_STARTED: Final = "started"
"""EC2 has started the instance; it has not written to the ledger yet."""
NODE_PULLING: Final = "pulling the image"


def is_over(state: str) -> bool:
    """
    Return whether an execution has ended, with or without success.

    Args:
        state: State of the execution in Step Functions.
    """
    return state not in (RUNNING, PENDING_REDRIVE)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """
    Holder of a fleet that a run waits for.

    Args:
        fleet: Name of the fleet.
        run: Name of the run that holds it, or `#clean-up` or `#reaper`.
        since: When it took the fleet, in epoch seconds; None if unknown.
    """

    fleet: str
    run: str
    since: int | None = None


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """
    A run's SageMaker training job, before all of its nodes have joined.

    Args:
        name: Name of the job.
        status: SageMaker's `SecondaryStatus`, such as `Starting`, `Downloading` or `Training`.
        message: What SageMaker says of it; '' if it says nothing.
        instance_type: Type of its instances, such as `ml.g5.xlarge`.
        nodes: Number of its instances.
        there: Whether SageMaker has started them.
    """

    name: str
    status: str
    message: str
    instance_type: str
    nodes: int
    there: bool


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """
    One node of a run's current attempt.

    Args:
        node: Name of the node; on EC2 the instance id.
        state: One of the contract's `NODE_STATES`, or `NODE_STARTED`, `NODE_PULLING`.
        gpus: Number of GPUs.
        instance_type: Instance type, such as `g5.xlarge`.
        market: `spot` or `on-demand`; empty if unknown.
        zone: Availability Zone, such as `eu-west-1a`.
        seen_at: Time of its last sign of life, in epoch seconds; None if there was none.
        started_at: Time of its boot, in epoch seconds; None if unknown.
        step: Steps of its slowest rank.
        leads: Whether it is the leader.
        interruption: EC2's notice, one of the contract's `INTERRUPTIONS`; empty if there was none.
        usd_per_hour: Price of the node, in USD an hour; None if unknown.
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
    Progress of a training; a value is None if the script does not report it.

    Args:
        step: Completed steps.
        steps: Steps of the whole training.
        epoch: Current epoch, from 1.
        epochs: Epochs of the whole training.
        loss: Loss of the current epoch.
        samples_per_second: Samples per second of the whole ring.
        ranks: Ranks of the ring.
        resets: Number of ring resets.
        eta_seconds: Remaining seconds at the speed so far; None if *steps* is not known.
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
    Cost of a run's instances, in USD, from their known start times and prices.

    Args:
        usd: Cost so far.
        usd_per_hour: Cost per hour of the current nodes.
        ceiling_usd: Cost ceiling of the run; None if it has none.
        on_demand_usd: Cost of the same nodes On-Demand; None until the run has ended.
        saved_usd: Saving by Spot; None until the run has ended.
        unpriced: Nodes without a known price, which the amounts leave out.
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
    Status of a run.

    Args:
        run: Name of the run.
        state: State of the execution: `RUNNING`, `SUCCEEDED`, `FAILED`, `TIMED_OUT`, `ABORTED`, `PENDING_REDRIVE`.
        stage: Stage of the run, one of `STAGE_*` in `horovod_node.contract`; None until the request is recorded.
        phase: Phase of the run, which is finer: one of `PHASES`; None while *stage* is None.
        error: Name of the error that ended the run; None if there was none.
        cause: Cause of that error.
        model_uri: S3 address of the model; None unless the run succeeded.
        notice: A sentence about something that the workflow could not do, such as enforce the ceiling.
        place: Place in the queue, 1 for the next run; None if the run does not wait.
        holders: Holders of the fleets that the run waits for.
        capacity: Current attempt to get nodes; None if there is none.
        restarts: Lost attempts so far; the run restarted after each.
        job: Training job whose nodes start; None on other engines, and when they have joined.
        gpus: GPUs of the request; None until it is recorded.
        started_at: Start of the execution, in epoch seconds.
        nodes: Nodes of the current attempt, including instances that have not joined.
        progress: Progress of the training; None before its first step.
        spend: Cost of the run; None if no price is known.
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
    job: JobStatus | None = None
    gpus: int | None = None
    started_at: float | None = None
    nodes: tuple[NodeStatus, ...] = ()
    progress: TrainingProgress | None = None
    spend: Spend | None = None

    def __str__(self) -> str:
        """Describe the status in one line for people; programs should read the fields."""
        from horovod_client.status.describe import describe_run

        return describe_run(self, now=time.time())

    @property
    def ended(self) -> bool:
        """Whether the run has ended, with or without success."""
        return is_over(self.state)

    @property
    def succeeded(self) -> bool:
        """Whether the run succeeded."""
        return self.state == SUCCEEDED
