"""
Checkpoints on disk, written in the background while the training continues.

Each checkpoint is a folder that is written under a hidden name and renamed when it is complete. The agent mirrors the
checkpoint folder to S3, and ignores hidden names.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

from horovod_node.training_base.commits import Commit
from horovod_node.training_base.position import Position

CHECKPOINT_SECONDS: Final = 60.0
"""Seconds between two checkpoints: the work that a lost leader may cost. A lost node costs only a commit interval."""
KEEP: Final = 2
"""
Number of checkpoints that stay on disk: one more than needed, in case the newest cannot be read. The last one of each
other model that the script has trained stays, too.
"""

_SAGEMAKERS: Final = Path("/opt/ml/checkpoints")
_VERSION: Final = 1
_FACTS: Final = "checkpoint.json"
_MODEL: Final = "model"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError)


def checkpoint_folder() -> Path | None:
    """
    Return the folder that `SM_CHECKPOINT_DIR` names, or else SageMaker's `/opt/ml/checkpoints`; `None` without either.

    The agent sets the variable; SageMaker's images do not.
    """
    named = os.environ.get("SM_CHECKPOINT_DIR")
    if named:
        return Path(named)
    return _SAGEMAKERS if _SAGEMAKERS.is_dir() else None


class Format(Protocol):
    """Writes and reads a framework's values in a checkpoint's folder."""

    @property
    def unreadable(self) -> tuple[type[Exception], ...]:
        """Exceptions that `read` raises for an incomplete file, besides the usual ones."""

    def write(self, folder: Path, values: Any) -> dict[str, Any]:
        """Write *values*, and return the facts that `read` needs."""

    def read(self, folder: Path, facts: Mapping[str, Any]) -> Any:
        """Read the values; *facts* are those that `write` returned."""

    def compare(self, name: str, facts: Mapping[str, Any]) -> None:
        """Raise `ValueError` if the checkpoint of this *name* is of another model."""


class Checkpoints:
    """
    The checkpoints of one training.

    Args:
        folder: The checkpoint folder.
        values: The framework's format.
        model: Number of the model, among those that the script trains.
    """

    def __init__(self, folder: Path, values: Format, *, model: int = 0) -> None:
        self._folder = folder
        self._values = values
        self._model = model
        self._unreadable: tuple[type[Exception], ...] = (*_UNREADABLE, *values.unreadable)
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def write(self, commit: Commit) -> None:
        """
        Write *commit* in the background.

        Raises:
            OSError: If the previous checkpoint could not be written.
        """
        self.join()
        self._thread = threading.Thread(target=self._write, args=(commit,), name="checkpoint")
        self._thread.start()

    def join(self) -> None:
        """
        Wait until no checkpoint is being written.

        Raises:
            OSError: If the last checkpoint could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def newest(self, *, fit: int) -> Commit | None:
        """
        Read the newest complete checkpoint of call number *fit* of `fit`, or of a later call.

        The checkpoint of a later call is returned with the newest values of this call's model, if there are any: the
        script may use the model before the later call, and must not find an untrained one.

        Raises:
            ValueError: If the checkpoint is of another model.
        """
        later: Position | None = None
        for path in reversed(self._complete()):
            try:
                facts = self._facts(path)
                position = Position(**facts["position"])
                if position.fit < fit:
                    break
                if position.fit > fit:
                    later = later or position
                    if facts.get(_MODEL, 0) != self._model or not self._fits(path, facts):
                        continue
                values = self._values.read(path, facts)
            except self._unreadable as error:
                print(f"checkpoint {path.name} cannot be read ({error}); trying the one before", file=sys.stderr)
                continue
            if later is None:
                self._values.compare(path.name, facts)
            elif position.fit == fit and not self._fits(path, facts):
                break
            return Commit(position=later or position, values=values)
        return None if later is None else Commit(position=later, values=None)

    def _facts(self, path: Path) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((path / _FACTS).read_text())
        if facts["version"] != _VERSION:
            raise ValueError(f"it has version {facts['version']}, not {_VERSION}")
        return facts

    def _fits(self, path: Path, facts: Mapping[str, Any]) -> bool:
        """Whether a later call's values fit this call: the script may have trained the model with another optimizer."""
        try:
            self._values.compare(path.name, facts)
        except ValueError:
            return False
        return True

    def _write(self, commit: Commit) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{commit.position.step:012d}"
            half = self._folder / f".{path.name}"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            values = self._values.write(half, commit.values)
            facts = {"version": _VERSION, _MODEL: self._model, "position": asdict(commit.position), **values}
            (half / _FACTS).write_text(json.dumps(facts))
            # After a rollback the training reaches the same step again; either state of that step will do.
            shutil.rmtree(path, ignore_errors=True)
            half.rename(path)
            for old in self._superseded():
                shutil.rmtree(old, ignore_errors=True)
        except BaseException as error:  # the next join raises it
            self._failed = error

    def _superseded(self) -> list[Path]:
        """List checkpoints that are neither among the newest `KEEP`, nor the newest of a model not trained now."""
        complete = self._complete()
        old, models = complete[:-KEEP], {self._model}
        superseded = []
        for path in reversed(old):
            try:
                model = self._facts(path).get(_MODEL, 0)
            except self._unreadable:
                model = self._model
            if model in models:
                superseded.append(path)
            models.add(model)
        return superseded

    def _complete(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.name.isdecimal() and path.is_dir())
