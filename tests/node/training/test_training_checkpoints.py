"""Which checkpoint a call of `fit` goes on from, where a script trains several models or calls it several times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from horovod_node.training_base.checkpoints import Checkpoints
from horovod_node.training_base.commits import Commit
from horovod_node.training_base.position import Position
from horovod_node.training_base.trained_models import TrainedModels


class Words:
    """Keeps a word; words fit each other that are equally long."""

    unreadable = ()

    def __init__(self, length: int) -> None:
        self._length = length

    def write(self, folder: Path, values: str) -> dict[str, Any]:
        (folder / "word").write_text(values)
        return {"length": len(values)}

    def read(self, folder: Path, facts: Mapping[str, Any]) -> str:  # noqa: ARG002 - the signature is the protocol's
        return (folder / "word").read_text()

    def compare(self, name: str, facts: Mapping[str, Any]) -> None:
        if facts["length"] != self._length:
            raise ValueError(f"checkpoint {name} has {facts['length']} letters, not {self._length}")


def checkpoints(folder: Path, model: int, length: int = 3) -> Checkpoints:
    """Give those of a call of `fit` that trains this model."""
    return Checkpoints(folder, Words(length), model=model)


def write(folder: Path, *, fit: int, step: int, model: int, word: str) -> None:
    """Write one, as that call does."""
    writer = checkpoints(folder, model, len(word))
    writer.write(Commit(position=Position(fit=fit, step=step), values=word))
    writer.join()


def found(folder: Path, *, fit: int, model: int, length: int = 3) -> tuple[int, str | None] | None:
    """Give which call's position this call goes on from, and the word."""
    commit = checkpoints(folder, model, length).newest(fit=fit)
    return None if commit is None else (commit.position.fit, commit.values)


def test_each_models_last_checkpoint_stays(tmp_path: Path) -> None:
    """Beside the two newest: a script that starts again goes through the earlier calls, and uses their models."""
    # WHEN
    for step in range(1, 5):
        write(tmp_path, fit=1, step=step, model=0, word=f"a{step:02}")
    for step in range(5, 10):
        write(tmp_path, fit=2, step=step, model=1, word=f"b{step:02}")
    # THEN
    assert [int(path.name) for path in sorted(tmp_path.iterdir())] == [4, 8, 9]
    assert found(tmp_path, fit=1, model=0) == (2, "a04")
    assert found(tmp_path, fit=2, model=1) == (2, "b09")
    assert found(tmp_path, fit=3, model=2) is None


def test_model_that_is_trained_in_turns_has_its_newest_state(tmp_path: Path) -> None:
    """Two models, one after the other and again: an earlier call finds what a later one made of its model."""
    # WHEN
    for fit, word in enumerate(("a01", "b02", "a03", "b04"), start=1):
        write(tmp_path, fit=fit, step=fit, model=(fit - 1) % 2, word=word)
    # THEN
    assert [found(tmp_path, fit=fit, model=(fit - 1) % 2) for fit in range(1, 5)] == [
        (4, "a03"),
        (4, "b04"),
        (4, "a03"),
        (4, "b04"),
    ]


def test_later_call_may_train_with_another_optimizer(tmp_path: Path) -> None:
    """Its state is not this call's, which is over all the same."""
    # WHEN
    write(tmp_path, fit=2, step=1, model=0, word="longer")
    # THEN
    assert found(tmp_path, fit=1, model=0) == (2, None)


def test_fails_when_this_calls_checkpoint_is_another_models(tmp_path: Path) -> None:
    """A changed model does not silently begin anew."""
    # GIVEN
    write(tmp_path, fit=1, step=1, model=0, word="longer")
    # WHEN / THEN
    with pytest.raises(ValueError, match="has 6 letters, not 3"):
        found(tmp_path, fit=1, model=0)


def test_models_keep_their_numbers() -> None:
    """By the order in which they come, for as long as the script has them, and none gets another's."""

    class Model:
        pass

    # GIVEN
    models = TrainedModels()
    first, second = Model(), Model()
    assert [models.number(first), models.number(second), models.number(first)] == [0, 1, 0]
    # WHEN
    del first
    # THEN
    assert models.model(0) is None
    assert models.model(1) is second
    assert models.number(Model()) == 2
    assert models.model(7) is None
