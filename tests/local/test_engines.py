"""What every engine keeps: the same runs on each, and nothing left after them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from horovod_node import contract
from support.faults.lab import receipt_of, until
from support.local_cloud.deployment import facts, wait
from support.local_cloud.engines import (
    ENGINES,
    GPUS,
    LEASE,
    REAPER_MINUTES,
    SCHEDULE_SPEED,
    EngineDeployment,
    EngineUnderTest,
    deployed_engine,
)
from support.waiting import SECONDS

pytestmark = pytest.mark.local

REAPER = REAPER_MINUTES * 60 / SCHEDULE_SPEED
"""Seconds between two looks of the reaper."""


@pytest.fixture(scope="module", params=ENGINES, ids=lambda engine: engine.name)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineDeployment]:
    """A training on each engine in turn."""
    engine: EngineUnderTest = request.param
    with deployed_engine(tmp_path_factory.mktemp(engine.name), engine) as deployment:
        yield deployment


@pytest.fixture(autouse=True)
def nothing_is_left(app: EngineDeployment) -> Iterator[None]:
    """After every run, however it ended, every layer is on again, nothing is left, and no request was denied."""
    yield
    for layer in ("clean-up", "reaper"):
        app.switch(layer, on=True)
    app.assert_nothing_is_left()
    assert app.cloud.permissions()["denials"] == []


def test_a_script_trains_a_model(app: EngineDeployment) -> None:
    """Real ranks average their weights, the model arrives, and the receipt names every node."""
    # WHEN
    run = app.start("trains_briefly.py", gpus=GPUS)
    status = wait(run)
    # THEN
    assert (status.state, status.cause) == ("SUCCEEDED", None)
    found = facts(app.model(run))
    assert (found["difference"], found["ranks"]) == (0.0, GPUS)
    receipt = receipt_of(run)
    assert (receipt["outcome"], len(receipt["nodes"]), receipt["attempts"]) == ("succeeded", GPUS, 1)
    assert receipt["cost"]["usd"] > 0


@pytest.mark.slow
def test_a_scripts_failure_has_its_own_words(app: EngineDeployment) -> None:
    """The cause of a failed run is the traceback of the rank that failed."""
    status = wait(app.start("raises.py", gpus=GPUS))
    assert (status.state, status.error) == ("FAILED", contract.ERROR_TRAINING_FAILED)
    assert "ZeroDivisionError: the loss of rank 1 is not a number" in str(status.cause)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["clean-up", "reaper", "nodes"])
def test_a_stopped_run_leaves_nothing(app: EngineDeployment, layer: str) -> None:
    """Whoever is left of the layers ends the nodes of a stopped run: clean-up, reaper, or the nodes themselves."""
    # GIVEN a run that trains
    run = app.start("steps_only.py", gpus=GPUS)
    app.training_nodes(run)
    for other in ("clean-up", "reaper"):
        app.switch(other, on=other == layer)
    # WHEN
    run.stop()
    # THEN
    patience = SECONDS + 2 * REAPER + 2 * LEASE
    assert until(patience, lambda: not app.engine.left(app))


@pytest.mark.slow
def test_a_run_ends_when_its_time_is_over(app: EngineDeployment) -> None:
    """A training that takes longer than it may is ended, and says so."""
    status = wait(app.start("steps_only.py", gpus=GPUS, max_runtime=timedelta(seconds=20)))
    assert (status.state, status.error) == ("FAILED", contract.ERROR_MAX_RUNTIME)


@pytest.mark.slow
def test_a_run_ends_when_its_money_is_spent(app: EngineDeployment) -> None:
    """A training costs its ceiling and no more."""
    # GIVEN two nodes at 1 USD an hour, and money for a minute and a half
    ceiling = GPUS * 90 / 3600
    run = app.start("steps_only.py", gpus=GPUS, max_cost_usd=ceiling)
    # WHEN
    status = wait(run)
    # THEN
    assert (status.state, status.error) == ("FAILED", contract.ERROR_COST_CEILING)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["leader", "follower"])
def test_a_lost_node_starts_the_run_again(app: EngineDeployment, lost: str) -> None:
    """A static ring that loses a node without a word starts again on full nodes, and succeeds."""
    # GIVEN
    run = app.start("steps_only.py", gpus=GPUS, hyperparameters={"seconds": 25}, max_restarts=1)
    leader, others = app.training_nodes(run)
    # WHEN
    app.engine.lose(app.cloud, leader if lost == "leader" else others[0])
    # THEN
    assert wait(run).state == "SUCCEEDED"
    receipt = receipt_of(run)
    assert (len(receipt["restarts"]), receipt["outcome"]) == (1, "succeeded")


@pytest.mark.slow
def test_an_interrupted_ring_starts_again(app: EngineDeployment) -> None:
    """A static ring whose Spot nodes are interrupted starts again on others, and succeeds."""
    # GIVEN
    run = app.start("steps_only.py", gpus=GPUS, hyperparameters={"seconds": 25}, max_restarts=1)
    app.training_nodes(run)
    # WHEN
    app.engine.interrupt(app.cloud)
    # THEN
    assert wait(run).state == "SUCCEEDED"
    assert len(receipt_of(run)["restarts"]) == 1


@pytest.mark.slow
def test_a_run_resumes_another_ones_checkpoint(app: EngineDeployment) -> None:
    """A run begins with what an earlier run has left as its checkpoint."""
    # GIVEN
    first = app.start("keeps_a_note.py", gpus=GPUS, hyperparameters={"note": "of the first run"})
    assert wait(first).state == "SUCCEEDED"
    # WHEN
    hyperparameters = {"note": "of the second"}
    second = app.start("keeps_a_note.py", gpus=GPUS, hyperparameters=hyperparameters, resume_from=first.name)
    # THEN
    assert wait(second).state == "SUCCEEDED"
    assert app.model(second)["restored"] == b"note: of the first run"


@pytest.mark.slow
def test_runs_wait_for_each_other(app: EngineDeployment) -> None:
    """A second run waits in the queue until the first one's nodes are gone."""
    first = app.start("steps_only.py", gpus=GPUS, hyperparameters={"seconds": 5})
    second = app.start("steps_only.py", gpus=GPUS, hyperparameters={"seconds": 1})
    # WHEN
    assert wait(second).state == "SUCCEEDED"
    # THEN
    assert first.status().state == "SUCCEEDED"
    begun, ended = receipt_of(second)["times"]["reserved_at"], receipt_of(first)["times"]["terminated_at"]
    assert begun >= ended
