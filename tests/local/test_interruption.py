"""A run whose Spot node has notice of an interruption."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from horovod_node import contract
from support.local_cloud.elastic_deployment import ElasticDeployment, elastic_deployment
from support.waiting import eventually

pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticDeployment]:
    with elastic_deployment(tmp_path_factory.mktemp("interruption")) as lab:
        yield lab


@pytest.mark.slow
def test_notices_are_in_the_ledger(lab: ElasticDeployment) -> None:
    """A recommendation is written down and changes nothing; an instance action takes its place."""
    # GIVEN a run that trains
    run = lab.start("steps_only.py", gpus=2)
    lab.wait_for_step(run, 3, nodes=2)
    (spot,) = lab.spots()
    before = int(time.time())

    # WHEN
    lab.cloud.recommend_rebalance(spot.instance_id)

    # THEN
    def node() -> tuple[str, int]:
        item = lab.nodes(run)[spot.instance_id]
        return item.interruption, item.interrupted_at

    kind, at = eventually(node, lambda seen: seen[0] != "")
    assert kind == contract.INTERRUPTION_REBALANCE
    assert before <= at <= time.time()
    step = lab.nodes(run)[spot.instance_id].step
    lab.wait_for_step(run, step + 1, nodes=2)

    # WHEN
    lab.cloud.interrupt(spot.instance_id, notice_seconds=120)

    # THEN
    kind, later = eventually(node, lambda seen: seen[0] == contract.INTERRUPTION_NOTICE)
    assert (kind, later >= at) == (contract.INTERRUPTION_NOTICE, True)
    others = [item for name, item in lab.nodes(run).items() if name != spot.instance_id]
    assert [item.interruption for item in others] == [""]

    # AND with the run ends everything, notice or not
    run.stop()
    assert eventually(lab.instances_left, lambda left: not left) == []
