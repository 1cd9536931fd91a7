"""Runs on ECS whose tasks cannot start: the cause has the words of ECS, if it has any."""

from __future__ import annotations

from pathlib import Path

import pytest

from horovod_local import Faults
from horovod_node import contract
from support.faults.lab import receipt_of
from support.local_cloud.deployment import wait
from support.local_cloud.engines import ECS, GPUS, deployed_engine, synthesise_engine

pytestmark = [pytest.mark.local, pytest.mark.slow]


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (Faults(images_pull=False), "CannotPullContainerError"),
        (Faults(container_agents_connect=False), "the nodes were there, see their logs"),
    ],
    ids=["image", "agent"],
)
def test_a_ring_that_does_not_form_says_why(tmp_path: Path, faults: Faults, words: str) -> None:
    """
    Instances are there, but no task: the run waits for a ring as long as it may, and then repeats what ECS said.

    Of an instance that never registered ECS knows nothing, and a daemon service has nothing to place.
    """
    # GIVEN
    with deployed_engine(tmp_path, ECS, launch=30, start=40) as app:
        app.cloud.set_faults(faults)
        # WHEN
        status = wait(app.start("steps_only.py", gpus=GPUS))
        # THEN
        assert (status.state, status.error) == ("FAILED", contract.ERROR_RING_NOT_FORMED)
        assert words in str(status.cause)
        app.assert_nothing_is_left()


def test_a_deployment_in_mid_run_touches_no_task(tmp_path: Path) -> None:
    """A new image is deployed while a run trains: the run's tasks stay, and only the next run has the new image."""
    # GIVEN
    with deployed_engine(tmp_path, ECS) as app:
        run = app.start("steps_only.py", gpus=GPUS, hyperparameters={"seconds": 20})
        before = app.training_nodes(run)
        # WHEN
        synthesise_engine(tmp_path / "again", ECS, tag="2")
        app.cloud.deploy(tmp_path / "again", tell=lambda _line: None)
        # THEN
        assert app.training_nodes(run, step=2) == before
        assert wait(run).state == "SUCCEEDED"
        assert "restarts" not in receipt_of(run)
        second = app.start("steps_only.py", gpus=GPUS, hyperparameters={"seconds": 1})
        assert wait(second).state == "SUCCEEDED"
        images = [receipt_of(each)["image"].rpartition(":")[2] for each in (run, second)]
        assert images == ["1", "2"]
        app.assert_nothing_is_left()
