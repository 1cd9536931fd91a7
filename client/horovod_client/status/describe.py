"""What becomes of a run, in words: of what a line about it is made, wherever it is printed."""

from __future__ import annotations

from collections.abc import Iterator

from horovod_client.status.run_status import PHASE_CAPACITY, RunStatus, Spend, TrainingProgress
from horovod_client.status.waiting import explain_waiting
from horovod_client.text import amounts
from horovod_client.text.amounts import duration
from horovod_node import contract


def describe_run(status: RunStatus, *, now: float) -> str:
    """
    Tell all of a run in one line: where it is and what it waits for, how far it is and what it cost, or how it ended.

    Args:
        status: What the run is doing.
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
    Name the stage, and in the queue how many runs come first; None while there is no stage.

    Nodes join when they are there. The state machine begins to wait for that as soon as it has asked for capacity; for
    people the run is still starting then.

    Args:
        status: What the run is doing.
    """
    if status.phase == PHASE_CAPACITY:
        return contract.STAGE_STARTING
    before = (status.place or 1) - 1
    if not before:
        return status.stage
    return f"{status.stage}, {amounts.counted(before, 'run')} before it"


def describe_capacity(status: RunStatus) -> str | None:
    """
    Tell what the run tries to get nodes, and what EC2 said to the attempt before; None when it does not look for any.

    Args:
        status: What the run is doing.
    """
    search = status.capacity
    if search is None or status.phase != PHASE_CAPACITY:
        return None
    refusal = f"; EC2 said: {search.refusal}" if search.refusal else ""
    return f"waiting for capacity: attempt {search.number} of {search.of}, {search.attempt}{refusal}"


def describe_restarts(status: RunStatus) -> str | None:
    """
    Tell how often the run started again, and why it did last; None when it never did.

    Args:
        status: What the run is doing.
    """
    if not status.restarts:
        return None
    times, last = len(status.restarts), status.restarts[-1]
    reason = (last.cause.splitlines() or [""])[0]
    return f"started again {amounts.counted(times, 'time')}: {last.error}: {reason}"


def describe_progress(progress: TrainingProgress, *, eta: bool = True) -> str:
    """
    Write how far a training is, as `epoch 3/8, step 120/400, loss 0.412, 310 samples/s, 2 min left`.

    Args:
        progress: How far it is.
        eta: Whether to tell how long the rest will take.
    """
    return ", ".join(_progress_facts(progress, eta=eta))


def describe_spend(spend: Spend, *, ended: bool = False) -> str:
    """
    Write what a run has cost, and what it may cost.

    Args:
        spend: What is known of it.
        ended: Whether the run is over, and costs nothing an hour.
    """
    ceiling = "" if spend.ceiling_usd is None else f" of at most {amounts.usd(spend.ceiling_usd)}"
    without = f", without {amounts.counted(spend.unpriced, 'node')} whose price is not known" if spend.unpriced else ""
    pace = "" if ended else f", {amounts.usd(spend.usd_per_hour)} USD an hour now"
    return f"spent {amounts.usd(spend.usd)} USD{ceiling}{pace}{without}"


def describe_trouble(error: Exception) -> str:
    """Say that AWS cannot be reached, to who watches a run: the run does not need it."""
    return f"cannot reach AWS ({error}): the run goes on, and this keeps trying"


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
        yield f"ring formed anew {amounts.counted(progress.resets, 'time')}"
    if progress.eta_seconds is not None and eta:
        yield f"{duration(progress.eta_seconds)} left"
