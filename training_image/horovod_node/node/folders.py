"""The folders that a training script finds: SageMaker's, under one root."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Layout:
    """
    SageMaker's folders, `/opt/ml` with them.

    Source: Amazon SageMaker developer guide, "How Amazon SageMaker Provides Training Information" and
    "How Amazon SageMaker Processes Training Output".

    Args:
        root: What is `/opt/ml` on SageMaker.
    """

    root: Path

    @property
    def code(self) -> Path:
        """The script's archive, unpacked."""
        return self.root / "code"

    @property
    def environment(self) -> Path:
        """The Python environment with what the script's requirements.txt names; not SageMaker's."""
        return self.root / "environment"

    @property
    def input(self) -> Path:
        """Everything that the run was given."""
        return self.root / "input"

    @property
    def config(self) -> Path:
        """JSON files that describe the run."""
        return self.input / "config"

    @property
    def model(self) -> Path:
        """What the script leaves here on the leader is the run's result."""
        return self.root / "model"

    @property
    def checkpoints(self) -> Path:
        """What the script needs to go on after a loss."""
        return self.root / "checkpoints"

    @property
    def output(self) -> Path:
        """Signs of success or failure."""
        return self.root / "output"

    @property
    def output_data(self) -> Path:
        """What the script leaves beside the model."""
        return self.output / "data"

    @property
    def tensorboard(self) -> Path:
        """What the script leaves for TensorBoard; the default of SageMaker's `TensorBoardOutputConfig`."""
        return self.output / "tensorboard"

    @property
    def failure(self) -> Path:
        """Why the run failed, in words."""
        return self.output / "failure"

    @property
    def ranks(self) -> Path:
        """Where ranks tell the agent of their progress; not SageMaker's."""
        return self.root / "ranks"

    @property
    def fetched(self) -> Path:
        """What was downloaded completely; not SageMaker's."""
        return self.root / "fetched"

    def channel(self, name: str) -> Path:
        """Give the folder of one data channel."""
        return self.input / "data" / name

    def create(self) -> None:
        """Make the folders. Data and checkpoints of an earlier start stay; all else of it goes."""
        for stale in (self.code, self.environment):
            shutil.rmtree(stale, ignore_errors=True)
        self.renew()

    def renew_code(self) -> None:
        """Make the script's folder empty: an attempt before may have unpacked the archive and failed later."""
        shutil.rmtree(self.code, ignore_errors=True)
        self.code.mkdir(parents=True)

    def renew(self) -> None:
        """Take out what an earlier attempt of the same run left, but for its script, its data and its checkpoints."""
        for stale in (self.model, self.output, self.ranks):
            shutil.rmtree(stale, ignore_errors=True)
        for folder in (
            self.code,
            self.config,
            self.input / "data",
            self.model,
            self.checkpoints,
            self.output_data,
            self.tensorboard,
            self.ranks,
            self.fetched,
        ):
            folder.mkdir(parents=True, exist_ok=True)
