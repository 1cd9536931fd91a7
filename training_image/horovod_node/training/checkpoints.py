"""
Checkpoints on disk: one folder each, complete or not there, written beside the training.

The agent copies what is in this folder to S3, and never looks at names that begin with a dot.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from horovod_node.training.position import Position
from horovod_node.training.state import Commit

CHECKPOINT_SECONDS: Final = 60.0
"""Work that a lost leader may cost, as a lost node costs only a commit."""
KEEP: Final = 2
"""Checkpoints left here: one more than needed, for the case that the newest cannot be read."""

_VERSION: Final = 1
_FACTS: Final = "checkpoint.json"
_VALUES: Final = "values.npz"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


def checkpoint_folder() -> Path | None:
    """Give the folder that the agent, or SageMaker, keeps; `None` elsewhere."""
    model = os.environ.get("SM_MODEL_DIR")
    return Path(model).parent / "checkpoints" if model else None


class Checkpoints:
    """
    The checkpoints of one training.

    Args:
        folder: Where they are.
        variables: What each of the variables is, as `TrainingState.describe` says it.
    """

    def __init__(self, folder: Path, variables: Sequence[dict[str, Any]]) -> None:
        self._folder = folder
        self._variables = list(variables)
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._thread is not None and self._thread.is_alive()

    def write(self, commit: Commit) -> None:
        """
        Write *commit* in the background.

        Raises:
            OSError: If the one before could not be written.
        """
        self.join()
        self._thread = threading.Thread(target=self._write, args=(commit,), name="checkpoint")
        self._thread.start()

    def join(self) -> None:
        """
        Wait until nothing is being written.

        Raises:
            OSError: If it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def newest(self, *, fit: int) -> Commit | None:
        """
        Read the newest checkpoint of call number *fit* of `fit`, or of a later one, that is whole.

        Raises:
            ValueError: If it was made by another model.
        """
        for path in reversed(self._complete()):
            try:
                facts = json.loads((path / _FACTS).read_text())
                if facts["version"] != _VERSION:
                    raise ValueError(f"it has version {facts['version']}, not {_VERSION}")
                position = Position(**facts["position"])
                if position.fit != fit:
                    # Of an earlier call: this one has none yet. Of a later one: only how far it is matters.
                    return Commit(position=position, values=[]) if position.fit > fit else None
                values = self._read(path / _VALUES, facts["variables"])
            except _UNREADABLE as error:
                print(f"checkpoint {path.name} cannot be read ({error}); trying the one before", file=sys.stderr)
                continue
            self._compare(path, facts["variables"])
            return Commit(position=position, values=values)
        return None

    def _write(self, commit: Commit) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{commit.position.step:012d}"
            half = self._folder / f".{path.name}"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            np.savez(half / _VALUES, **{str(number): value for number, value in enumerate(commit.values)})
            facts = {"version": _VERSION, "position": asdict(commit.position), "variables": self._variables}
            (half / _FACTS).write_text(json.dumps(facts))
            # After a rollback the training comes through the same step again; one state of it is as good as another.
            shutil.rmtree(path, ignore_errors=True)
            half.rename(path)
            for old in self._complete()[:-KEEP]:
                shutil.rmtree(old, ignore_errors=True)
        except BaseException as error:  # told to the training when it next looks
            self._failed = error

    def _complete(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.name.isdecimal() and path.is_dir())

    def _read(self, file: Path, variables: Sequence[dict[str, Any]]) -> list[np.ndarray[Any, Any]]:
        with np.load(file, allow_pickle=False) as saved:
            return [_typed(saved[str(number)], facts["dtype"]) for number, facts in enumerate(variables)]

    def _compare(self, path: Path, theirs: Sequence[dict[str, Any]]) -> None:
        if len(theirs) != len(self._variables):
            raise ValueError(
                f"checkpoint {path.name} was made by another model or optimizer: it has {len(theirs)} variables, "
                f"this one {len(self._variables)}"
            )
        for there, here in zip(theirs, self._variables, strict=True):
            if (there["shape"], there["dtype"]) != (here["shape"], here["dtype"]):
                raise ValueError(
                    f"checkpoint {path.name} was made by another model or optimizer: {there['name']} is "
                    f"{there['dtype']}{there['shape']} there, {here['name']} is {here['dtype']}{here['shape']} here"
                )


def _typed(array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    # NumPy's format knows no bfloat16, and gives back plain bytes.
    return array if array.dtype.kind != "V" else array.view(_numpy_type(dtype))


def _numpy_type(name: str) -> Any:
    import tensorflow as tf

    return tf.as_dtype(name).as_numpy_dtype
