"""
The state of preprocessing layers that `adapt` computes from data, and that is not kept in variables.

Lookup layers keep a vocabulary in a table, `Discretization` keeps its boundaries in a list, and `Normalization` copies
its variables into constants of the graph. A model's weights depend on this state. So a rank that was adapted to other
data, or a process that was restarted, must adopt it together with the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf


class AdaptedLayers:
    """
    The adapted layers of a model, including nested ones.

    Args:
        model: A built Keras model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        layers = list(_layers(model))
        self._lookups = [layer for layer in layers if hasattr(layer, "lookup_table")]
        self._bins = [layer for layer in layers if hasattr(layer, "bin_boundaries")]
        self._finalized = [layer for layer in layers if hasattr(layer, "finalize_state")]
        self._owned = {id(weight) for layer in (*self._lookups, *self._bins) for weight in layer.weights}
        self._read = self._write_down()

    def __bool__(self) -> bool:
        """Whether there is state outside of variables."""
        return bool(self._lookups or self._bins)

    def read(self) -> np.ndarray[Any, Any]:
        """Return the state outside of variables, as bytes; it does not change while the model trains."""
        return self._read

    def write(self, learned: np.ndarray[Any, Any]) -> None:
        """
        Adopt the state that `read` returned in another process.

        Raises:
            ValueError: If the shape of the model depends on this state.
        """
        if np.array_equal(learned, self._read):
            return
        facts = json.loads(learned.tobytes())
        for layer, (vocabulary, weights) in zip(self._lookups, facts["lookups"], strict=True):
            if [vocabulary, weights] != _vocabulary(layer):
                _set_vocabulary(layer, vocabulary, weights)
        for layer, (boundaries, summary) in zip(self._bins, facts["bins"], strict=True):
            layer.bin_boundaries = boundaries
            _set_summary(layer, np.asarray(summary, np.float32).reshape(2, -1))
        self._read = self._write_down()
        self._forget_graphs()

    def around(self, assign: Callable[[], None]) -> None:
        """Call *assign*, which changes the model's variables, and update the constants of layers that copied them."""
        before = [_values(layer) for layer in self._finalized]
        assign()
        changed = [
            layer
            for layer, old in zip(self._finalized, before, strict=True)
            if any(not np.array_equal(one, other) for one, other in zip(old, _values(layer), strict=True))
        ]
        for layer in changed:
            layer.finalize_state()
        if changed:
            self._forget_graphs()

    def own(self, weight: Any) -> bool:
        """Whether `read` covers *weight*: a variable that grows, or a table, which Keras 2 lists among the weights."""
        return id(weight) in self._owned or not hasattr(weight, "shape")

    def _write_down(self) -> np.ndarray[Any, Any]:
        facts = {
            "lookups": [_vocabulary(layer) for layer in self._lookups],
            "bins": [[_listed(layer.bin_boundaries), _listed(_summary(layer))] for layer in self._bins],
        }
        return np.frombuffer(json.dumps(facts).encode(), np.uint8)

    def _forget_graphs(self) -> None:
        """Discard traced functions, which contain the old constants and tables."""
        for layer in (self._model, *_layers(self._model)):
            for name in ("train_function", "test_function", "predict_function"):
                if getattr(layer, name, None) is not None:
                    setattr(layer, name, None)


def _layers(model: Any) -> Iterator[Any]:
    yield from model._flatten_layers()


def _values(layer: Any) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(weight.numpy()) for weight in layer.weights if hasattr(weight, "shape")]


def _vocabulary(layer: Any) -> list[Any]:
    """Return a layer's vocabulary, and its words' weights, if it has any, without their padding."""
    words = [word.item() if isinstance(word, np.generic) else word for word in layer.get_vocabulary()]
    weights = getattr(layer, "idf_weights_const", None)
    return [words, None if weights is None else _listed(weights)[: len(words)]]


def _set_vocabulary(layer: Any, words: list[Any], weights: list[float] | None) -> None:
    try:
        layer.set_vocabulary(words, **({} if weights is None else {"idf_weights": weights}))
    except RuntimeError as error:
        raise ValueError(
            f"layer '{layer.name}' was adapted to other data here than on the rank, or in the run, whose state is "
            "taken over, and the model's shape follows from it: adapt it to the same data everywhere"
        ) from error


def _summary(layer: Any) -> Any:
    return getattr(layer, "summary", None)


def _set_summary(layer: Any, summary: np.ndarray[Any, Any]) -> None:
    if isinstance(_summary(layer), tf.Variable):
        layer.summary.assign(summary)
    elif _summary(layer) is not None:
        layer.summary = summary


def _listed(values: Any) -> Any:
    return None if values is None else np.asarray(values).tolist()
