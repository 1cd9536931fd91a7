"""Descriptions of a run's status, shared by every place that prints it."""

from __future__ import annotations

from collections.abc import Iterator

from horovod_client.status.run_status import PHASE_CAPACITY, RunStatus, Spend, TrainingProgress
from horovod_client.status.waiting import explain_waiting
from horovod_client.text import amounts
from horovod_client.text.amounts import duration
from horovod_node import contract


def describe_run(status: RunStatus, *, now: float) -> str:
    """
    Describe a run in one line: stage, reason of waiting, progress and cost, or how it ended.

    Args:
        status: Status of the run.
        now: Epoch seconds.
    """
    if status.ended:
        cause = (status.cause or "").splitlines()[:1]
        parts = [f"run {status.run}", status.state, status.error, *cause, status.model_uri]
        return ": ".join(part for part in parts if part)
    facts = [
        describe_stage(status),
        explain_waiting(status, now=now),
        status.progress and describe_progress(status.progress),
        status.spend and describe_spend(status.spend),
    ]
    return f"run {status.run}: {', '.join([status.state, *(fact for fact in facts if fact)])}"


def describe_stage(status: RunStatus) -> str | None:
    """
    Return the stage, and in the queue the number of runs before this one; None while there is no stage.

    The state machine's stage is `joining` as soon as it has requested capacity. While nodes are missing, this returns
    `starting` instead.

    Args:
        status: Status of the run.
    """
    if status.phase == PHASE_CAPACITY:
        return contract.STAGE_STARTING
    before = (status.place or 1) - 1
    if not before:
        return status.stage
    return f"{status.stage}, {amounts.counted(before, 'run')} before it"


def describe_capacity(status: RunStatus) -> str | None:
    """
    Describe the current attempt to get nodes, and EC2's message about the previous one; None if there is no attempt.

    Args:
        status: Status of the run.
    """
    search = status.capacity
    if search is None or status.phase != PHASE_CAPACITY:
        return None
    refusal = f"; AWS said: {search.refusal}" if search.refusal else ""
    return f"waiting for capacity: attempt {search.number} of {search.of}, {search.attempt}{refusal}"


def describe_restarts(status: RunStatus) -> str | None:
    """
    Describe how often the run restarted, and why it did last; None if it never did.

    Args:
        status: Status of the run.
    """
    if not status.restarts:
        return None
    times, last = len(status.restarts), status.restarts[-1]
    reason = (last.cause.splitlines() or [""])[0]
    return f"restarted {amounts.counted(times, 'time')}: {last.error}: {reason}"


def describe_progress(progress: TrainingProgress, *, eta: bool = True) -> str:
    """
    Describe the progress of a training: `epoch 3/8, step 120/400, loss 0.412, 310 samples/s, 2 min left`.

    Args:
        progress: Progress of the training.
        eta: Whether to include the remaining time. Default: it is included.
    """
    return ", ".join(_progress_facts(progress, eta=eta))


def describe_spend(spend: Spend, *, ended: bool = False) -> str:
    """
    Describe the cost of a run and its ceiling.

    Args:
        spend: Cost of the run.
        ended: Whether the run has ended, so that its cost per hour is left out. Default: it has not.
    """
    ceiling = "" if spend.ceiling_usd is None else f" of at most {amounts.usd(spend.ceiling_usd)}"
    without = f", without {amounts.counted(spend.unpriced, 'node')} whose price is not known" if spend.unpriced else ""
    pace = "" if ended else f", {amounts.usd(spend.usd_per_hour)} USD an hour now"
    return f"spent {amounts.usd(spend.usd)} USD{ceiling}{pace}{without}"


def describe_trouble(error: Exception) -> str:
    """Say that AWS cannot be reached and is called again."""
    return f"cannot reach AWS ({error}): the run continues, and this command retries"


def _progress_facts(progress: TrainingProgress, *, eta: bool) -> Iterator[str]:
    if progress.epoch is not None:
        yield f"epoch {progress.epoch}{'' if progress.epochs is None else f'/{progress.epochs}'}"
    yield f"step {progress.step}{'' if progress.steps is None else f'/{progress.steps}'}"
    if progress.loss is not None:
        yield f"loss {progress.loss:.4g}"
    if progress.samples_per_second is not None:
        yield f"{progress.samples_per_second:.4g} samples/s"
    if progress.ranks:
        yield amounts.counted(progress.ranks, "rank")
    if progress.resets:
        yield amounts.counted(progress.resets, "ring reset")
    if progress.eta_seconds is not None and eta:
        yield f"{duration(progress.eta_seconds)} left"
