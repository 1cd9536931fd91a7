"""`fit` on a ring: it calls the script's step for each batch, with commits and checkpoints."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from horovod_node import steps
from horovod_node.torch_training import ring
from horovod_node.torch_training.optimizer import is_distributed
from horovod_node.torch_training.state import Part, StateFormat, TrainingState
from horovod_node.torch_training.work import Work, divide
from horovod_node.training_base.checkpoints import Checkpoints, checkpoint_folder
from horovod_node.training_base.commits import CommitSchedule
from horovod_node.training_base.keeper import Keeper
from horovod_node.training_base.position import Position
from horovod_node.training_base.trained_models import TrainedModels

_last = Position(fit=0)
"""Position at which the script's last call of `fit` ended."""
_models = TrainedModels()
_current: TrainingState | None = None
"""State of the present call of `fit`."""

Batch = TypeVar("Batch")


def fit(
    step: Callable[..., Any],
    data: Any,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Part] | None = None,
    epochs: int = 1,
    on_epoch_end: Callable[[int, float | None], Any] | None = None,
    steps_per_epoch: int | None = None,
    commit_every: int | None = None,
    checkpoint_every: int | None = None,
    checkpoints: str | Path | None = None,
) -> None:
    """
    Train *model* on all ranks to the end, even if the ring changes.

    Args:
        step:
            The body of the script's loop. It gets a batch, as several arguments if that is a list or a tuple, and ends
            with `optimizer.step()`. If it returns a value, that is the loss.
        data:
            The script's `DataLoader`, whose examples are shuffled and divided here; or a function of rank and the
            ring's size that returns the rank's own batches, so that no rank reads another's data. The function is
            called again when the ring's size changes.
        model: The model to train.
        optimizer: An optimizer from `distributed`.
        state: Other objects with state, by any name: schedulers, scalers, averaged models. Default: none.
        epochs: Total number of epochs, including those before a restart.
        on_epoch_end:
            Called on all ranks with the epoch, from 0, and the mean of its losses over all ranks, or `None` if *step*
            returns none. If it returns `True` on any rank, the training ends on all ranks.
        steps_per_epoch: Batches in an epoch, as for one GPU: n ranks take an n-th as many steps. Default: all.
        commit_every:
            Steps between two commits of the state in memory. A lost node costs the steps since the last one.
            Default: as many as take 2 s, or more, so that commits take at most 2 % of the time.
        checkpoint_every:
            Steps between two checkpoints, which rank 0 writes. A lost leader costs the steps since the last one.
            Default: as many as take 60 s.
        checkpoints:
            Folder of the checkpoints.
            Default: the run's checkpoint folder, which `SM_CHECKPOINT_DIR` names; on a laptop, none.

    Raises:
        TypeError: If the optimizer does not average, or the data cannot be divided.
        ValueError: If an argument is out of range, or the checkpoint is of another model.
    """
    global _current, _last
    for name, value in (
        ("epochs", epochs),
        ("steps_per_epoch", steps_per_epoch),
        ("checkpoint_every", checkpoint_every),
    ):
        if value is not None and value < 1:
            raise ValueError(f"'{name}' must be at least 1, got {value}")
    if ring.is_ring() and not is_distributed(optimizer):
        raise TypeError("the optimizer does not average gradients: give training.distributed(...) of it to fit()")
    parts: dict[str, Part] = {"model": model, "optimizer": optimizer}
    if state and (twice := parts.keys() & state.keys()):
        raise ValueError(f"'state' must have names other than {', '.join(sorted(twice))}")
    parts |= state or {}
    position = Position(fit=_last.fit + 1, step=_last.step, order=random.getrandbits(31))
    kept = TrainingState(parts, position, _models)
    folder = Path(checkpoints) if checkpoints else checkpoint_folder()
    keeper = Keeper(
        kept,
        ring=ring,
        is_lost_ring=ring.is_lost_ring,
        schedule=CommitSchedule(commit_every),
        checkpoints=Checkpoints(folder, StateFormat(parts), model=_models.number(model))
        if folder and ring.rank() == 0
        else None,
        checkpoint_every=checkpoint_every,
        epochs=epochs,
    )
    work = divide(data, steps_per_epoch=steps_per_epoch)
    training = _Training(step, work, kept, keeper, epochs=epochs, on_epoch_end=on_epoch_end)
    _current = kept
    try:
        keeper.run(training.train, finish=lambda: None)
    finally:
        _current = None
    _last = kept.position


def evaluating(batches: Iterable[Batch]) -> Iterator[Batch]:
    """
    Yield the *batches* of an evaluation, and report each of them as progress.

    Without these reports, an evaluation that takes longer than `stall_seconds` would count as a stall.
    """
    for batch in batches:
        yield batch
        steps.tell(step=(_last if _current is None else _current.position).step)


class _Training:
    """One call of `fit`, on one rank."""

    def __init__(
        self,
        step: Callable[..., Any],
        work: Work,
        state: TrainingState,
        keeper: Keeper,
        *,
        epochs: int,
        on_epoch_end: Callable[[int, float | None], Any] | None,
    ) -> None:
        self._step, self._work, self._state, self._keeper = step, work, state, keeper
        self._epochs, self._on_epoch_end = epochs, on_epoch_end
        self._wants_stop = False

    def train(self) -> None:
        """Train from the present state on."""
        while self._state.position.epoch < self._epochs and not self._wants_stop:
            mean = self._train_epoch()
            epoch = self._state.position.epoch
            if self._on_epoch_end is not None and self._on_epoch_end(epoch, mean) is True:
                self._wants_stop = True
            self._agree_to_stop(bool(ring.gather([self._wants_stop], name="stop").any()))
            self._state.position = replace(self._state.position, epoch=epoch + 1, done=0)
            self._keep()

    def _train_epoch(self) -> float | None:
        """Train the rest of an epoch, and return the mean of its losses over all ranks."""
        leg = self._work.leg(self._state.position)
        if leg is None:
            return None
        epoch_steps = self._work.steps()
        first = self._state.position.step
        total: Any = None
        self._keeper.begin_measuring()
        for taken, batch in enumerate(leg.batches, start=1):
            loss = self._step(*batch) if isinstance(batch, list | tuple) else self._step(batch)
            if loss is not None:
                # The sum stays on the device: to read the loss would wait for the GPU.
                loss = loss.detach() if isinstance(loss, torch.Tensor) else loss
                total = loss if total is None else total + loss
            self._state.position = replace(self._state.position, step=first + taken, done=leg.start + taken * leg.unit)
            self._keeper.obey_stop()
            self._keeper.report.tell(
                self._state.position,
                leg=leg,
                taken=taken,
                epoch_steps=epoch_steps,
                ranks=ring.size(),
                logs={} if loss is None else {"loss": loss},
            )
            # After an epoch's last step, `train` keeps the state, when the epoch's end has been handled.
            if taken < leg.steps:
                self._keep()
        rows = ring.gather([total is not None, 0.0 if total is None else float(total) / leg.steps], name="loss")
        return float(rows[:, 1].mean()) if rows[:, 0].all() else None

    def _keep(self) -> None:
        self._keeper.keep(wants_stop=self._wants_stop, agree_to_stop=self._agree_to_stop)

    def _agree_to_stop(self, wanted: bool) -> None:
        self._wants_stop = self._wants_stop or wanted
