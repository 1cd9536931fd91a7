"""A run whose script turns against another run: everything is denied, and the other one does not notice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from horovod_client import Run
from horovod_node import contract
from support.faults.lab import Lab, deployed_lab
from support.local_cloud.deployment import wait
from support.waiting import eventually

ATTACKS = 21
"""That `scripts/attacks.py` tries."""


pytestmark = [pytest.mark.slow, pytest.mark.local]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Deploy a training of two fleets."""
    with deployed_lab(tmp_path_factory) as lab:
        yield lab


def test_hostile_script_reaches_nothing_of_another_run(lab: Lab) -> None:
    """The audit's attacks, with the node's own credentials, on a run that trains on another fleet."""
    # GIVEN
    app, connection = lab.app, lab.app.training.connection
    victim = lab.start(gpus=2, seconds=60)
    eventually(lambda: lab.steps_of(victim))
    source = request_of(lab, victim)[contract.SOURCE]
    before = kept(lab, victim)
    # WHEN
    own_fleet = next(fleet.id for fleet in connection.fleets if fleet.id != app.fleet_of(victim))
    targets = {
        "table": connection.ledger_table,
        "models": connection.model_bucket,
        "data": connection.data_bucket,
        "fleet": app.fleet_of(victim),
        "own_fleet": own_fleet,
        "run_id": victim.run_id,
        "source": source.removeprefix(f"s3://{connection.data_bucket}/"),
    }
    hostile = app.start("attacks.py", gpus=1, hyperparameters={"targets": json.dumps(targets)})
    ended = wait(hostile)
    # THEN
    lines = [line for stream in app.logs(hostile).values() for line in stream]
    tried = [line.partition("tried: ")[2] for line in lines if "tried: " in line]
    assert (len(tried), [line for line in tried if not line.startswith("denied: ")]) == (ATTACKS, [])
    assert (ended.state, ended.cause) == ("SUCCEEDED", None)
    # AND
    assert kept(lab, victim) == before
    status = wait(victim)
    assert (status.state, status.error) == ("SUCCEEDED", None)
    assert re.fullmatch(rb"\d+ steps", app.model(victim)["model.txt"])
    assert victim.receipt()["outcome"] == "succeeded"
    app.assert_nothing_is_left()


def request_of(lab: Lab, run: Run) -> dict[str, str]:
    """Read the request of *run* from the ledger."""
    item = lab.app.item(contract.run_key(run.run_id)) or {}
    request: dict[str, str] = json.loads(item[contract.REQUEST_JSON]["S"])
    return request


def kept(lab: Lab, run: Run) -> list[object]:
    """Read what no other run may change while *run* trains: its item, its lease's holder, its script, its nodes."""
    connection = lab.app.training.connection
    lease = lab.app.item(contract.lease_key(lab.app.fleet_of(run))) or {}
    holder = {name: value for name, value in lease.items() if name != contract.EXPIRES_AT}
    key = request_of(lab, run)[contract.SOURCE].removeprefix(f"s3://{connection.data_bucket}/")
    script = lab.cloud.client("s3").get_object(Bucket=connection.data_bucket, Key=key)["Body"].read()
    nodes = sorted(item[contract.NODE]["S"] for item in lab.items(run, contract.NODE_PREFIX))
    return [lab.app.item(contract.run_key(run.run_id)), holder, script, nodes]
