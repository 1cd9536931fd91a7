"""The state of a Keras training on disk: a NumPy archive, and a description of its arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf

_VALUES: Final = "values.npz"


class ArrayFormat:
    """
    Writes and reads the values of variables.

    Args:
        variables: Descriptions of the variables, from `TrainingState.describe`.
    """

    unreadable = (zipfile.BadZipFile, zlib.error)

    def __init__(self, variables: Sequence[dict[str, Any]]) -> None:
        self._variables = list(variables)

    def write(self, folder: Path, values: Sequence[np.ndarray[Any, Any]]) -> dict[str, Any]:
        """Write the values, and return the descriptions of their variables."""
        np.savez(folder / _VALUES, **{str(number): value for number, value in enumerate(values)})
        return {"variables": self._variables}

    def read(self, folder: Path, facts: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        """Read the values."""
        with np.load(folder / _VALUES, allow_pickle=False) as saved:
            return [_typed(saved[str(number)], each["dtype"]) for number, each in enumerate(facts["variables"])]

    def compare(self, name: str, facts: Mapping[str, Any]) -> None:
        """
        Compare the variables of the checkpoint of this *name* with those of this training.

        Raises:
            ValueError: If the checkpoint is of another model or optimizer.
        """
        theirs = facts["variables"]
        if len(theirs) != len(self._variables):
            raise ValueError(
                f"checkpoint {name} was made by another model or optimizer: it has {len(theirs)} variables, "
                f"this one {len(self._variables)}"
            )
        for there, here in zip(theirs, self._variables, strict=True):
            if (there["shape"], there["dtype"]) != (here["shape"], here["dtype"]):
                raise ValueError(
                    f"checkpoint {name} was made by another model or optimizer: {there['name']} is "
                    f"{there['dtype']}{there['shape']} there, {here['name']} is {here['dtype']}{here['shape']} here"
                )


def _typed(array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    # NumPy's format does not support bfloat16, and returns plain bytes.
    return array if array.dtype.kind != "V" else array.view(tf.as_dtype(dtype).as_numpy_dtype)
