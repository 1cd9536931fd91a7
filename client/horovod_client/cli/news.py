"""What becomes of a run, line by line, for who watches it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import click

from horovod_client import amounts
from horovod_client.status import RunStatus, Spend, TrainingProgress
from horovod_client.waiting import duration

PROGRESS_SECONDS: Final = 10.0
"""Between two lines about how far the training is."""
TROUBLE_SECONDS: Final = 60.0
"""Trouble that comes again within this time is the same trouble."""


def describe_stage(status: RunStatus) -> str | None:
    """
    Name the stage, and in the queue how many runs come first; None while there is no stage.

    Args:
        status: What the run is doing.
    """
    before = (status.place or 1) - 1
    if not before:
        return status.stage
    return f"{status.stage}, {before} run{'' if before == 1 else 's'} before it"


def describe_capacity(status: RunStatus, *, now: float | None = None) -> str | None:
    """
    Tell what the run tries to get nodes, and what EC2 said to the attempt before; None when it does not look for any.

    Args:
        status: What the run is doing.
        now: Epoch seconds, to tell since when. Default: that is left out.
    """
    search = status.capacity
    if search is None:
        return None
    since = "" if now is None else f", since {max(0, now - search.since) / 60:.0f} min"
    refusal = f"; EC2 said: {search.refusal}" if search.refusal else ""
    return f"waiting for capacity: attempt {search.number} of {search.of}, {search.attempt}{since}{refusal}"


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
    return f"started again {times} time{'' if times == 1 else 's'}: {last.error}: {reason}"


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
    nodes = "1 node" if spend.unpriced == 1 else f"{spend.unpriced} nodes"
    without = f", without {nodes} whose price is not known" if spend.unpriced else ""
    pace = "" if ended else f", {amounts.usd(spend.usd_per_hour)} USD an hour now"
    return f"spent {amounts.usd(spend.usd)} USD{ceiling}{pace}{without}"


def news_printer(*, err: bool) -> Callable[[RunStatus], None]:
    """
    Make the watcher that prints each stage, attempt, restart and notice when it changes, and now and then the progress.

    Args:
        err: Print to stderr.
    """
    printed: dict[str, str] = {}
    progress_at = -PROGRESS_SECONDS

    def print_news(status: RunStatus) -> None:
        nonlocal progress_at
        news = {
            "restarts": describe_restarts(status),
            "stage": describe_stage(status),
            "capacity": describe_capacity(status),
            "notice": status.notice,
        }
        for what, line in news.items():
            if line is not None and printed.get(what) != line:
                printed[what] = line
                click.echo(line, err=err)
        if status.progress is not None and not status.ended and time.monotonic() - progress_at >= PROGRESS_SECONDS:
            progress_at = time.monotonic()
            click.echo(f"  {describe_progress(status.progress)}", err=err)

    return print_news


def trouble_printer() -> Callable[[Exception], None]:
    """Make the watcher that says, once for each row of them, that AWS cannot be reached and is asked again."""
    last = float("-inf")

    def print_trouble(error: Exception) -> None:
        nonlocal last
        if time.monotonic() - last >= TROUBLE_SECONDS:
            click.echo(f"cannot reach AWS ({error}): the run goes on, and this keeps trying", err=True)
        last = time.monotonic()

    return print_trouble


def _progress_facts(progress: TrainingProgress, *, eta: bool) -> Iterator[str]:
    if progress.epoch is not None:
        yield f"epoch {progress.epoch}{'' if progress.epochs is None else f'/{progress.epochs}'}"
    yield f"step {progress.step}{'' if progress.steps is None else f'/{progress.steps}'}"
    if progress.loss is not None:
        yield f"loss {progress.loss:.4g}"
    if progress.samples_per_second is not None:
        yield f"{progress.samples_per_second:.4g} samples/s"
    if progress.ranks:
        yield f"{progress.ranks} rank{'' if progress.ranks == 1 else 's'}"
    if progress.resets:
        yield f"ring formed anew {progress.resets} time{'' if progress.resets == 1 else 's'}"
    if progress.eta_seconds is not None and eta:
        yield f"{duration(progress.eta_seconds)} left"
