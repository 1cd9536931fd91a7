"""The folders that a training script finds: SageMaker's, under one root."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Layout:
    """
    SageMaker's folders under one root.

    Source: Amazon SageMaker developer guide, "How Amazon SageMaker Provides Training Information" and
    "How Amazon SageMaker Processes Training Output".

    Args:
        root: The folder that is `/opt/ml` on SageMaker.
    """

    root: Path

    @property
    def code(self) -> Path:
        """The script's archive, unpacked."""
        return self.root / "code"

    @property
    def environment(self) -> Path:
        """The Python environment with the packages of the script's requirements.txt; not part of SageMaker's layout."""
        return self.root / "environment"

    @property
    def input(self) -> Path:
        """The run's inputs: configuration and data."""
        return self.root / "input"

    @property
    def config(self) -> Path:
        """JSON files that describe the run."""
        return self.input / "config"

    @property
    def model(self) -> Path:
        """The model: files that the script leaves here on the leader are the run's result."""
        return self.root / "model"

    @property
    def checkpoints(self) -> Path:
        """The script's checkpoints, from which it resumes after a loss."""
        return self.root / "checkpoints"

    @property
    def output(self) -> Path:
        """Output other than the model, and the failure file."""
        return self.root / "output"

    @property
    def output_data(self) -> Path:
        """Files that the script leaves beside the model."""
        return self.output / "data"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files; the default path of SageMaker's `TensorBoardOutputConfig`."""
        return self.output / "tensorboard"

    @property
    def failure(self) -> Path:
        """The file that says why the run failed."""
        return self.output / "failure"

    @property
    def ranks(self) -> Path:
        """Files in which ranks report their progress to the agent; not part of SageMaker's layout."""
        return self.root / "ranks"

    @property
    def fetched(self) -> Path:
        """Records of completed downloads; not part of SageMaker's layout."""
        return self.root / "fetched"

    def channel(self, name: str) -> Path:
        """Return the folder of one data channel."""
        return self.input / "data" / name

    def create(self) -> None:
        """Create the folders. Of an earlier start of the agent, only data and checkpoints are kept."""
        for stale in (self.code, self.environment):
            shutil.rmtree(stale, ignore_errors=True)
        self.renew()

    def renew_code(self) -> None:
        """Empty the script's folder: an earlier attempt may have unpacked the archive and failed later."""
        shutil.rmtree(self.code, ignore_errors=True)
        self.code.mkdir(parents=True)

    def renew(self) -> None:
        """Remove the files of an earlier attempt of the same run, except its script, data and checkpoints."""
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
