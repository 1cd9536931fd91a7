"""Keras's callbacks in a ring: each event is passed on once, with the same values on all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from horovod_node.training import ring
from horovod_node.training.rehearsal import keras_of


class Listener(Protocol):
    """The training's handlers of Keras's events."""

    def on_epoch_begin(self, epoch: int) -> None:
        """An epoch, or what is left of it, begins."""

    def on_step_end(self, taken: int, logs: Mapping[str, Any]) -> None:
        """*taken* steps of this epoch's part are done."""

    def on_evaluation_step_end(self) -> None:
        """A step of an evaluation is done."""

    def on_epoch_end(self, epoch: int) -> None:
        """The epoch is done, on all ranks."""


def ring_callbacks(model: Any, callbacks: Sequence[Any], listener: Listener, *, verbose: Any, epochs: int) -> Any:
    """
    Return a Keras `CallbackList` of *callbacks* that may be passed to several calls of Keras's `fit`.

    - The callbacks see one beginning and one end of the training, though the ring may need several calls of `fit`. A
      callback that counts epochs without progress would otherwise start again with each call.
    - At an epoch's end the callbacks get the mean over all ranks, so that all ranks reduce their learning rate or stop
      at the same epoch. A callback that stops within an epoch stops all ranks at the next commit.
    - Only rank 0 shows progress.
    """
    base = keras_of(model).callbacks.CallbackList

    class RingCallbacks(base):  # type: ignore[misc, valid-type]  # of one of two Keras's
        def __init__(self) -> None:
            self.begun = False
            self.wants_stop = False
            shown = verbose if ring.rank() == 0 else 0
            super().__init__(
                list(callbacks),
                add_history=True,
                add_progbar=shown != 0,
                model=model,
                verbose=1 if shown == "auto" else shown,
                epochs=epochs,
                steps=None,
            )

        def on_train_begin(self, logs: Any = None) -> None:
            if not self.begun:
                self.begun = True
                super().on_train_begin(logs)

        def on_train_end(self, logs: Any = None) -> None:
            pass

        def finish(self, logs: Any = None) -> None:
            if self.begun:
                super().on_train_end(logs)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            listener.on_epoch_begin(epoch)
            super().on_epoch_begin(epoch, logs)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            super().on_train_batch_end(batch, logs)
            if model.stop_training:
                model.stop_training, self.wants_stop = False, True
            listener.on_step_end(batch + 1, logs or {})

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            super().on_test_batch_end(batch, logs)
            listener.on_evaluation_step_end()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, _mean(logs or {}))
            self.agree_to_stop(bool(ring.gather([self.wants_stop or model.stop_training], name="stop").any()))
            listener.on_epoch_end(epoch)

        def agree_to_stop(self, wanted: bool) -> None:
            """Stop the training if the ranks have agreed to."""
            if wanted:
                model.stop_training, self.wants_stop = True, True

    return RingCallbacks()


def _mean(logs: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}
    if not numbers or ring.size() == 1:
        return dict(logs)
    names = sorted(numbers)
    means = ring.gather([numbers[name] for name in names], name="logs").mean(axis=0)
    return {**logs, **dict(zip(names, means.tolist(), strict=True))}
