"""Notices of interruptions, as a node hears of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from horovod_node import contract
from horovod_node.node import interruption as interruption_module
from horovod_node.node.identity import Node
from horovod_node.node.instance_metadata import InstanceMetadata
from horovod_node.node.interruption import Interruption, InterruptionWatch
from support.node.emulated_aws import MetadataService
from support.waiting import eventually

POLL_SECONDS = 0.02
ACTION = "/latest/meta-data/spot/instance-action"


@pytest.fixture
def service() -> Iterator[MetadataService]:
    """Metadata of an instance that has no notice."""
    with closing(MetadataService({"instance-id": "i-1"})) as service:
        yield service


@pytest.fixture
def watch(service: MetadataService) -> Iterator[InterruptionWatch]:
    """A watch that looks often."""
    watch = InterruptionWatch(InstanceMetadata(service.endpoint, attempts=1), poll_seconds=POLL_SECONDS)
    watch.start()
    yield watch
    watch.stop()


@pytest.fixture
def spot(node: Node) -> Node:
    """A Spot node of the local cloud."""
    return replace(node, market=contract.SPOT, engine=contract.ENGINE_LOCAL)


def looks(service: MetadataService) -> int:
    """Count the looks so far."""
    return service.asked.count(("GET", ACTION))


def look_again(service: MetadataService) -> None:
    """Wait until the watch has looked twice more: the first of the two may have begun before."""
    before = looks(service)
    assert eventually(lambda: looks(service), lambda count: count >= before + 2) >= before + 2


def heard(watch: InterruptionWatch, kind: str) -> Interruption:
    """Wait for a notice of *kind*."""
    interruption = eventually(lambda: watch.interruption, lambda seen: seen is not None and seen.kind == kind)
    assert interruption is not None
    assert interruption.kind == kind
    return interruption


def test_no_notice(service: MetadataService, watch: InterruptionWatch) -> None:
    """Most instances never have one; looking needs one token."""
    # WHEN
    look_again(service)
    # THEN
    assert watch.interruption is None
    assert service.tokens_given == 1


def test_instance_action(service: MetadataService, watch: InterruptionWatch) -> None:
    """The notice says when the instance ends, and that is the end of looking."""
    # GIVEN
    look_again(service)
    before = int(time.time())
    # WHEN
    service.metadata.announce_termination(before + 120)
    # THEN
    interruption = heard(watch, contract.INTERRUPTION_NOTICE)
    assert interruption.is_final
    assert interruption.ends_at == before + 120
    assert before <= interruption.at <= time.time()
    last = looks(service)
    time.sleep(10 * POLL_SECONDS)
    assert looks(service) == last


def test_rebalance_recommendation(service: MetadataService, watch: InterruptionWatch) -> None:
    """A recommendation is heard once, is not final, and says nothing of an end."""
    # WHEN
    service.metadata.recommend_rebalance()
    # THEN
    interruption = heard(watch, contract.INTERRUPTION_REBALANCE)
    assert not interruption.is_final
    assert interruption.ends_at is None
    look_again(service)
    assert watch.interruption is interruption


def test_instance_action_after_a_recommendation(service: MetadataService, watch: InterruptionWatch) -> None:
    """What is sure counts more than what is likely."""
    # GIVEN
    service.metadata.recommend_rebalance()
    heard(watch, contract.INTERRUPTION_REBALANCE)
    # WHEN
    service.metadata.announce_termination(time.time() + 120)
    # THEN
    assert heard(watch, contract.INTERRUPTION_NOTICE).is_final


def test_both_at_once(service: MetadataService) -> None:
    """EC2 may send both together: then the instance action is the first that is heard."""
    # GIVEN
    service.metadata.recommend_rebalance()
    service.metadata.announce_termination(time.time() + 120)
    # WHEN
    watch = InterruptionWatch(InstanceMetadata(service.endpoint, attempts=1), poll_seconds=POLL_SECONDS)
    watch.start()
    # THEN
    assert eventually(lambda: watch.interruption, lambda seen: seen is not None).kind == contract.INTERRUPTION_NOTICE


@pytest.mark.parametrize("trouble", ["away", "busy"])
def test_metadata_may_fail(service: MetadataService, watch: InterruptionWatch, trouble: str) -> None:
    """While the service does not answer nothing is heard; afterwards everything is."""
    # GIVEN
    setattr(service, trouble, True if trouble == "away" else 1000)
    service.metadata.announce_termination(time.time() + 120)
    before = len(service.asked)
    eventually(lambda: len(service.asked), lambda count: count >= before + 3)
    assert watch.interruption is None
    # WHEN
    setattr(service, trouble, False if trouble == "away" else 0)
    # THEN
    assert heard(watch, contract.INTERRUPTION_NOTICE).is_final


def test_tokens_may_expire(service: MetadataService, watch: InterruptionWatch) -> None:
    """A watch outlives its tokens."""
    # GIVEN
    look_again(service)
    service.metadata.expire_tokens()
    # WHEN
    service.metadata.announce_termination(time.time() + 120)
    # THEN
    assert heard(watch, contract.INTERRUPTION_NOTICE).is_final
    assert service.tokens_given == 2


@pytest.mark.parametrize(
    "action", ['{"action": "hibernate"}', '{"action": "stop", "time": 5}', '{"action": "stop", "time": "soon"}', "soon"]
)
def test_a_notice_that_names_no_time(action: str) -> None:
    """Whatever it says, EC2 will take the instance away."""
    # GIVEN
    with closing(MetadataService({"spot/instance-action": action})) as service:
        # WHEN
        watch = InterruptionWatch(InstanceMetadata(service.endpoint))
        watch.start()
        # THEN
        assert heard(watch, contract.INTERRUPTION_NOTICE).ends_at is None


def test_spot_nodes_watch(service: MetadataService, spot: Node) -> None:
    """A node of the local cloud finds its metadata by its environment."""
    # GIVEN
    service.metadata.announce_termination(time.time() + 120)
    # WHEN
    watch = InterruptionWatch.of(spot, {contract.ENV_METADATA_ENDPOINT: service.endpoint})
    watch.start()
    # THEN
    assert heard(watch, contract.INTERRUPTION_NOTICE).is_final


@pytest.mark.parametrize("engine", contract.EC2_ENGINES)
def test_spot_instances_watch(
    service: MetadataService, spot: Node, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance finds its metadata where all instances do, whether ECS runs the agent on it or not."""
    # GIVEN
    monkeypatch.setattr(interruption_module, "DEFAULT_ENDPOINT", service.endpoint)
    service.metadata.announce_termination(time.time() + 120)
    # WHEN
    watch = InterruptionWatch.of(replace(spot, engine=engine), {})
    watch.start()
    # THEN
    assert heard(watch, contract.INTERRUPTION_NOTICE).is_final


def test_nodes_that_cannot_be_interrupted_do_not_watch(service: MetadataService, spot: Node) -> None:
    """On-Demand nodes, and nodes that have no metadata, ask nobody."""
    # GIVEN
    service.metadata.announce_termination(time.time() + 120)
    watches = [
        InterruptionWatch.of(
            replace(spot, market=contract.ON_DEMAND), {contract.ENV_METADATA_ENDPOINT: service.endpoint}
        ),
        InterruptionWatch.of(spot, {}),
    ]
    # WHEN
    for watch in watches:
        watch.start()
    time.sleep(10 * POLL_SECONDS)
    # THEN
    assert [watch.interruption for watch in watches] == [None, None]
    assert service.asked == []
