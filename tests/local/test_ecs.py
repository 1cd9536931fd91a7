"""Runs on ECS whose tasks cannot start: the cause has the words of ECS, if it has any."""

from __future__ import annotations

from pathlib import Path

import pytest

from horovod_local import Faults
from horovod_node import contract
from support.local_cloud.deployment import wait
from support.local_cloud.engines import ECS, GPUS, deployed_engine

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
