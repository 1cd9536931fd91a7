"""`fit` on a ring: it calls Keras's `fit`, in several parts if needed, with commits and checkpoints."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from horovod_node import steps
from horovod_node.training import optimizer as optimizers
from horovod_node.training import ring
from horovod_node.training.checkpoint_format import ArrayFormat
from horovod_node.training.elastic import is_lost_ring
from horovod_node.training.keras_callbacks import ring_callbacks
from horovod_node.training.rehearsal import has_call, optimizers_of
from horovod_node.training.state import TrainingState
from horovod_node.training.work import Leg, Work, divide
from horovod_node.training_base.checkpoints import Checkpoints, checkpoint_folder
from horovod_node.training_base.commits import CommitSchedule
from horovod_node.training_base.keeper import Keeper
from horovod_node.training_base.position import Position
from horovod_node.training_base.trained_models import TrainedModels

_last = Position(fit=0)
"""Position at which the script's last call of `fit` ended."""
_models = TrainedModels()


def fit(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: Any = "auto",
    callbacks: Sequence[Any] | None = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    commit_every: int | None = None,
    checkpoint_every: int | None = None,
    checkpoints: str | Path | None = None,
    **arguments: Any,
) -> Any:
    """
    Train *model* on all ranks to the end, even if the ring changes.

    The arguments are those of Keras's `fit` in a script for one GPU; the work of each epoch is divided among the ranks.
    Other arguments of Keras (`validation_freq`, `class_weight`, and so on) are passed on.

    Args:
        model: A model that was compiled with an optimizer from `distributed`.
        x:
            Arrays, which are shuffled and divided here; a `tf.data.Dataset` of batches, of which each rank takes every
            n-th; or a function of rank and the ring's size that returns the rank's own dataset, so that no rank reads
            another's data. The function is called again when the ring's size changes.
        y: With arrays: their targets.
        batch_size: With arrays: examples in a step of one rank. Default: 32.
        epochs: Total number of epochs, including those before a restart.
        verbose: As in Keras, on rank 0.
        callbacks: Callbacks, which run on all ranks. At an epoch's end they get the mean over all ranks.
        validation_split: With arrays: the fraction at their end that is used for validation.
        validation_data: As in Keras; each rank evaluates all of it.
        shuffle: With arrays: whether to shuffle the examples in each epoch.
        sample_weight: With arrays: as in Keras.
        initial_epoch: As in Keras.
        steps_per_epoch: Batches in an epoch, as for one GPU: n ranks take an n-th as many steps.
        commit_every:
            Steps between two commits of the state in memory. A lost node costs the steps since the last one.
            Default: as many as take 2 s, or more, so that commits take at most 2 % of the time.
        checkpoint_every:
            Steps between two checkpoints, which rank 0 writes. A lost leader costs the steps since the last one.
            Default: as many as take 60 s.
        checkpoints:
            Folder of the checkpoints.
            Default: the run's checkpoint folder, which `SM_CHECKPOINT_DIR` names; on a laptop, none.

    Returns:
        Keras's `History` of the epochs of this process.

    Raises:
        TypeError: If the optimizer does not average, or the data cannot be divided.
        ValueError: If an argument is out of range, or the checkpoint is of another model.
    """
    global _last
    for name, value in (("epochs", epochs), ("checkpoint_every", checkpoint_every)):
        if value is not None and value < 1:
            raise ValueError(f"'{name}' must be at least 1, got {value}")
    if validation_split:
        (x, y, sample_weight), validation_data = _split(x, y, sample_weight, validation_split)
    work = divide(x, y, sample_weight, batch_size=batch_size, steps_per_epoch=steps_per_epoch, shuffle=shuffle)
    position = Position(
        fit=_last.fit + 1,
        step=_last.step,
        epoch=initial_epoch,
        order=random.getrandbits(31),
    )
    state = TrainingState(model, _prepare(model, work), position, _models)
    folder = Path(checkpoints) if checkpoints else checkpoint_folder()
    keeper = Keeper(
        state,
        ring=ring,
        is_lost_ring=is_lost_ring,
        schedule=CommitSchedule(commit_every),
        checkpoints=Checkpoints(folder, ArrayFormat(state.describe()), model=_models.number(model))
        if folder and ring.rank() == 0
        else None,
        checkpoint_every=checkpoint_every,
        epochs=epochs,
    )
    training = _Training(model, work, state, keeper, epochs=epochs)
    listed = [callbacks] if callbacks is not None and not isinstance(callbacks, list | tuple) else callbacks or []
    training.callbacks = ring_callbacks(model, listed, training, verbose=verbose, epochs=epochs)
    passed = {**arguments, "validation_data": validation_data}
    if batch_size and validation_data is not None:
        passed.setdefault("validation_batch_size", batch_size)
    training.run(passed)
    _last = state.position
    return model.history


class _Training:
    """One call of `fit`, on one rank."""

    def __init__(self, model: Any, work: Work, state: TrainingState, keeper: Keeper, *, epochs: int) -> None:
        self.callbacks: Any = None
        self._model, self._work, self._state, self._keeper = model, work, state, keeper
        self._epochs = epochs
        self._leg: Leg | None = None
        self._epoch_step = self._epoch_start = self._epoch_steps = 0

    def run(self, arguments: Mapping[str, Any]) -> None:
        """Train to the end, from the newest checkpoint if there is one."""
        self._keeper.run(lambda: self._train(arguments), finish=self._finish)

    def _train(self, arguments: Mapping[str, Any]) -> None:
        while self._state.position.epoch < self._epochs and not self.callbacks.wants_stop:
            self._leg = leg = self._work.leg(self._state.position, self._epochs)
            if leg is None:
                self._state.position = replace(self._state.position, epoch=self._state.position.epoch + 1, done=0)
                continue
            self._epoch_steps = self._work.steps()
            self.callbacks.set_params({**(self.callbacks.params or {}), "steps": leg.steps})
            with optimizers.unfinished(self._model.optimizer):
                self._model.fit(
                    **leg.arguments,
                    initial_epoch=leg.epoch,
                    epochs=leg.epochs,
                    callbacks=self.callbacks,
                    verbose=0,
                    **arguments,
                )

    def _finish(self) -> None:
        if self.callbacks.begun:
            optimizers.finish(self._model)
            self.callbacks.finish()

    # --- events of Keras ---

    def on_epoch_begin(self, epoch: int) -> None:
        assert self._leg is not None
        self._epoch_step = self._state.position.step
        self._epoch_start = self._leg.start if epoch == self._leg.epoch else 0
        self._keeper.begin_measuring()

    def on_step_end(self, taken: int, logs: Mapping[str, Any]) -> None:
        assert self._leg is not None
        self._state.position = replace(
            self._state.position,
            step=self._epoch_step + taken,
            done=self._epoch_start + taken * self._leg.unit,
        )
        self._keeper.obey_stop()
        self._keeper.report.tell(
            self._state.position,
            leg=self._leg,
            taken=taken,
            epoch_steps=self._epoch_steps,
            ranks=ring.size(),
            logs=logs,
        )
        # After an epoch's last step, on_epoch_end keeps the state, when the callbacks have seen the epoch's end.
        if taken < self._leg.steps:
            self._keep()

    def on_evaluation_step_end(self) -> None:
        steps.tell(step=self._state.position.step)

    def on_epoch_end(self, epoch: int) -> None:
        self._state.position = replace(self._state.position, epoch=epoch + 1, done=0)
        self._keep()

    def _keep(self) -> None:
        self._keeper.keep(wants_stop=self.callbacks.wants_stop, agree_to_stop=self.callbacks.agree_to_stop)


def _prepare(model: Any, work: Work) -> list[Any]:
    """Prepare the model for training on the ring, and return the optimizers that train it."""
    if getattr(model, "optimizer", None) is None:
        raise ValueError("the model must be compiled: call model.compile() before training.fit()")
    batch = functools.cache(work.batch)
    if not model.built and has_call(model):
        model(_inputs(batch()))
    trained_by = optimizers_of(model, batch)
    if ring.is_ring():
        if model.jit_compile:
            # Keras 3 switches jit_compile on by default.
            if ring.rank() == 0:
                print("training.fit switches jit_compile off: XLA cannot compile Horovod's operations", flush=True)
            model.jit_compile = False
            model.train_function = None
        if not all(optimizers.has_averaged(optimizer) for optimizer in trained_by):
            # A function that was traced before the script distributed the optimizer does not average.
            model.train_function = None
    return trained_by


def _inputs(batch: Any) -> Any:
    """Return one example of the model's inputs, to build it with."""
    inputs = batch[0] if isinstance(batch, tuple) else batch
    return tf.nest.map_structure(lambda array: array[:1], inputs)


def _split(x: Any, y: Any, sample_weight: Any, part: float) -> tuple[tuple[Any, Any, Any], tuple[Any, ...]]:
    """Split the last *part* of arrays off for validation, as Keras does."""
    if isinstance(x, tf.data.Dataset) or callable(x):
        raise ValueError("'validation_split' is for arrays; give 'validation_data'")
    length = len(tf.nest.flatten(x)[0])
    at = int(length * (1 - part))
    if not 0 < at < length:
        raise ValueError(f"'validation_split' leaves nothing to train or to validate on, got {part}")

    def cut(data: Any, rows: slice) -> Any:
        return tf.nest.map_structure(lambda array: array[rows], data)

    held = tuple(cut(data, slice(at, None)) for data in (x, y, sample_weight) if data is not None)
    train = tuple(None if data is None else cut(data, slice(None, at)) for data in (x, y, sample_weight))
    return (train[0], train[1], train[2]), held
