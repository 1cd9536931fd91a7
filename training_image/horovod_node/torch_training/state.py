"""The state of a PyTorch training: the states of its parts, and its position."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from horovod_node.torch_training import ring
from horovod_node.training_base.commits import Commit
from horovod_node.training_base.committed_state import CommittedState
from horovod_node.training_base.position import Position
from horovod_node.training_base.trained_models import TrainedModels

_FILE: Final = "state.pt"


class Part(Protocol):
    """A model, an optimizer, a scheduler: any object with a `state_dict`."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Replace the state."""


class TrainingState(CommittedState):
    """
    The state of one call of `fit` on one rank.

    Args:
        parts: Everything that the training changes, by name.
        position: Where the training begins.
        models: All that the script trains.
    """

    def __init__(self, parts: Mapping[str, Part], position: Position, models: TrainedModels) -> None:
        super().__init__(position, model=models.number(parts["model"]))
        self._parts = parts
        self._models = models

    def values(self) -> dict[str, Any]:
        """Copy the states of all parts into host memory."""
        return {name: _copied(part.state_dict()) for name, part in self._parts.items()}

    def load(self, values: Mapping[str, Any], position: Position) -> None:
        """Take over a state."""
        for name, part in self._parts.items():
            # A copy, because optimizers keep and change the tensors that they load, and a commit must not change.
            part.load_state_dict(_copied(values[name]))
        self.position = position

    def sync(self) -> None:
        """
        Adopt the state of the rank with the most steps, and commit it.

        Raises:
            FitOverError: If the others are in a later call of `fit`.
        """
        root, _ = self.take_furthest_position(ring.gather)
        values = ring.broadcast(self.commit().values if ring.rank() == root else None, root=root)
        if ring.rank() != root:
            self.load(values, self.position)
            self.committed = Commit(position=self.position, values=values)

    def hand_down(self, model: int, *, root: int, late: bool) -> None:
        """Broadcast a model's state, if *root* still has it."""
        kept = self._models.model(model)
        mine = None if kept is None or ring.rank() != root else _copied(kept.state_dict())
        state = ring.broadcast(mine, root=root)
        if late and kept is not None and state is not None:
            kept.load_state_dict(state)


class StateFormat:
    """
    Keeps states as `torch.save` does, and reads them without running what a file may hold.

    Args:
        parts: What the states are of.
    """

    unreadable = (RuntimeError, pickle.UnpicklingError)

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._shapes = {name: _shapes(part.state_dict()) for name, part in parts.items()}

    def write(self, folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write the states, and return the shapes of the models' tensors, which never change during a training."""
        torch.save(dict(values), folder / _FILE)
        return {"shapes": self._shapes}

    def read(self, folder: Path, facts: Mapping[str, Any]) -> Any:  # noqa: ARG002 - the signature is the protocol's
        """Read the states."""
        return torch.load(folder / _FILE, map_location="cpu", weights_only=True)

    def compare(self, name: str, facts: Mapping[str, Any]) -> None:
        """
        Compare the shapes in the checkpoint of this *name* with those of this training.

        Raises:
            ValueError: If the checkpoint is of another model.
        """
        theirs = facts["shapes"]
        if theirs.keys() != self._shapes.keys():
            raise ValueError(
                f"checkpoint {name} was made by another training: it holds {', '.join(theirs)}, "
                f"this one {', '.join(self._shapes)}"
            )
        for part, mine in self._shapes.items():
            for tensor in sorted(theirs[part].keys() | mine.keys()):
                there, here = theirs[part].get(tensor, "not"), mine.get(tensor, "not")
                if there != here:
                    raise ValueError(
                        f"checkpoint {name} was made by another model: {part}'s {tensor} is {there} there, {here} here"
                    )


def _shapes(state: Any) -> dict[str, str]:
    """
    Describe the tensors right inside of a state, which are a model's.

    An optimizer's lie deeper, and those of one that has not stepped yet are not there.
    """
    if not isinstance(state, dict):
        return {}
    return {
        name: f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def _copied(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {name: _copied(each) for name, each in tree.items()}
    if isinstance(tree, list):
        return [_copied(each) for each in tree]
    if type(tree) is tuple:
        return tuple(_copied(each) for each in tree)
    return copy.deepcopy(tree)
