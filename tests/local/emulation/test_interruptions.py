"""Spot Instances that EC2 takes back, and what an instance is told about itself."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from horovod_local import LocalCloudError
from horovod_local.instances.instance_metadata import LONGEST_TTL_SECONDS, InstanceMetadata
from horovod_node import contract
from support.local_cloud.emulated_resources import processes, started, user_data
from support.waiting import SECONDS, eventually

TOKEN = "/latest/api/token"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
ITEMS = "/latest/meta-data/"


class Metadata:
    """Instance metadata as a program on the instance reads it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def ask(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Send one request."""
        # The address is the cloud's own, so the scheme cannot be a surprise.
        request = urllib.request.Request(self.endpoint + path, method=method, headers=dict(headers))  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def read(self, item: str) -> tuple[int, str]:
        """Read one item with a token of its own."""
        _, token = self.ask("PUT", TOKEN, {TTL: "60"})
        return self.ask("GET", ITEMS + item, {"X-aws-ec2-metadata-token": token})


def told_to(instance: Any) -> Metadata:
    """Find the metadata of *instance* where its agent does: in its environment."""
    environment = Path(f"/proc/{instance.pid}/environ").read_bytes().decode().split("\0")
    values = dict(line.split("=", 1) for line in environment if line)
    return Metadata(values[contract.ENV_METADATA_ENDPOINT])


def seconds(text: str) -> float:
    """Read a time as EC2 writes it."""
    assert text.endswith("Z")
    return datetime.fromisoformat(text).timestamp()


@pytest.fixture
def fleet(fleets: Any) -> Any:
    """One GPU from On-Demand, one from Spot."""
    fleet = fleets.create(user_data=user_data("sleep 600"), base=1, types=(("g5.xlarge", 1),))
    fleet.scale(2)
    return fleet


@pytest.fixture
def on_demand(cloud: Any, fleet: Any) -> Any:
    """The fleet's On-Demand Instance."""
    return next(item for item in started(cloud, fleet, 2) if item.market == contract.ON_DEMAND)


@pytest.fixture
def spot(cloud: Any, fleet: Any) -> Any:
    """The fleet's Spot Instance."""
    return next(item for item in started(cloud, fleet, 2) if item.market == contract.SPOT)


def found(cloud: Any, instance: Any) -> Any:
    """Look at *instance* again; None if it is gone."""
    return next((item for item in cloud.instances() if item.instance_id == instance.instance_id), None)


def test_instances_are_told_who_they_are(on_demand: Any, spot: Any) -> None:
    """Each instance's metadata has its own facts, and of interruptions nothing."""
    for instance in (on_demand, spot):
        # GIVEN
        metadata = told_to(instance)

        # WHEN, THEN
        assert metadata.read("instance-id") == (200, instance.instance_id)
        assert metadata.read("instance-life-cycle") == (200, instance.market)
        assert metadata.read("instance-type") == (200, "g5.xlarge")
        assert metadata.read("local-ipv4") == (200, instance.address)
        assert metadata.read("placement/availability-zone") == (200, instance.zone)
        assert metadata.read("placement/region") == (200, "eu-west-1")
        for item in ("spot/instance-action", "spot/termination-time", "events/recommendations/rebalance"):
            assert metadata.read(item)[0] == 404
        assert instance.interruption == ""


def test_metadata_wants_a_token(spot: Any) -> None:
    """Only version 2 is served: a token of the instance's own, given out by PUT, for at most six hours."""
    # GIVEN
    metadata = told_to(spot)

    # WHEN, THEN
    assert metadata.ask("GET", ITEMS + "instance-id", {})[0] == 401
    assert metadata.ask("GET", ITEMS + "instance-id", {"X-aws-ec2-metadata-token": "mine"})[0] == 401
    assert metadata.ask("GET", TOKEN, {TTL: "60"})[0] == 401
    assert metadata.ask("PUT", TOKEN, {TTL: "60", "X-Forwarded-For": "192.0.2.1"})[0] == 403
    for ttl in ("0", str(LONGEST_TTL_SECONDS + 1), "long", ""):
        assert metadata.ask("PUT", TOKEN, {TTL: ttl})[0] == 400
    assert metadata.ask("PUT", TOKEN, {})[0] == 400
    assert metadata.ask("POST", TOKEN, {TTL: "60"})[0] == 405
    assert metadata.ask("PUT", TOKEN, {TTL: str(LONGEST_TTL_SECONDS)})[0] == 200


def test_tokens_expire() -> None:
    """A token is good for as long as it was asked for."""
    # GIVEN
    metadata = InstanceMetadata({"instance-id": "i-1"})
    _, token = metadata.answer("PUT", TOKEN, {TTL: "2"})
    asked = ("GET", ITEMS + "instance-id", {"x-AWS-ec2-metadata-token": token})
    first = metadata.answer(*asked)

    # WHEN
    later = eventually(lambda: metadata.answer(*asked), lambda answer: answer[0] != 200)

    # THEN
    assert (first, later) == ((200, "i-1"), (401, ""))


def test_metadata_is_of_instances_that_run(cloud: Any) -> None:
    """What is no instance has no metadata."""
    metadata = Metadata(f"{cloud.endpoint}/_horovod_local/metadata/i-none")

    assert metadata.ask("PUT", TOKEN, {TTL: "60"})[0] == 404


def test_interruption(cloud: Any, fleet: Any, spot: Any) -> None:
    """The instance has its notice, lives for as long as that says, and dies; its group replaces it."""
    # GIVEN
    metadata = told_to(spot)

    # WHEN
    before = time.time()
    cloud.interrupt(spot.instance_id, notice_seconds=10)

    # THEN it is told when
    status, text = metadata.read("spot/instance-action")
    action = json.loads(text)
    assert (status, set(action), action["action"]) == (200, {"action", "time"}, "terminate")
    assert before + 9 <= seconds(action["time"]) <= time.time() + 10
    assert metadata.read("spot/termination-time") == (200, action["time"])
    # THEN it runs until then
    alive = found(cloud, spot)
    assert (alive.pid, alive.interruption) == (spot.pid, contract.INTERRUPTION_NOTICE)
    # THEN it is gone, and another one comes
    assert eventually(lambda: found(cloud, spot), lambda item: item is None) is None
    assert time.time() >= before + 10
    assert processes(spot) == []

    def state() -> str:
        answer = fleet.ec2.describe_instances(InstanceIds=[spot.instance_id])
        return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])

    assert eventually(state, lambda seen: seen == "terminated") == "terminated"
    kinds = eventually(fleet.kinds, lambda kinds: len(kinds) == 2)
    assert kinds == [("g5.xlarge", "on-demand"), ("g5.xlarge", "spot")]


def test_rebalance_recommendation(cloud: Any, spot: Any) -> None:
    """A recommendation ends nothing; an interruption may follow it, and each is to be seen."""
    # GIVEN
    metadata = told_to(spot)
    before = time.time()

    # WHEN
    cloud.recommend_rebalance(spot.instance_id)

    # THEN
    status, text = metadata.read("events/recommendations/rebalance")
    assert (status, set(json.loads(text))) == (200, {"noticeTime"})
    assert before - 1 <= seconds(json.loads(text)["noticeTime"]) <= time.time()
    assert metadata.read("spot/instance-action")[0] == 404
    assert found(cloud, spot).interruption == contract.INTERRUPTION_REBALANCE

    # WHEN
    cloud.interrupt(spot.instance_id)
    cloud.recommend_rebalance(spot.instance_id)

    # THEN
    assert metadata.read("events/recommendations/rebalance") == (200, text)
    assert metadata.read("spot/instance-action")[0] == 200
    assert found(cloud, spot).interruption == contract.INTERRUPTION_NOTICE


@pytest.mark.parametrize(
    ("act", "kind", "detail"),
    [
        ("interrupt", "EC2 Spot Instance Interruption Warning", {"instance-action": "terminate"}),
        ("recommend_rebalance", "EC2 Instance Rebalance Recommendation", {}),
    ],
)
def test_events(cloud: Any, machines: Any, spot: Any, act: str, kind: str, detail: dict[str, str]) -> None:
    """EventBridge has the event of each, and rules can wait for it."""
    # GIVEN a rule that starts a state machine
    events = cloud.client("events")
    rule = f"rule-{uuid.uuid4()}"
    machine = machines.create({"Type": "Pass"})
    pattern = {"source": ["aws.ec2"], "detail-type": [kind], "detail": {"instance-id": [spot.instance_id]}}
    events.put_rule(Name=rule, EventPattern=json.dumps(pattern))
    events.put_targets(
        Rule=rule, Targets=[{"Id": "machine", "Arn": machine, "RoleArn": "arn:aws:iam::123456789012:role/any"}]
    )

    # WHEN
    getattr(cloud, act)(spot.instance_id)

    # THEN
    started = eventually(lambda: machines.api.list_executions(stateMachineArn=machine)["executions"])
    event = json.loads(machines.finish(started[0]["executionArn"])["input"])
    assert event["detail"] == {"instance-id": spot.instance_id, **detail}
    assert event["resources"] == [f"arn:aws:ec2:{spot.zone}:instance/{spot.instance_id}"]


def test_fails_when_the_instance_is_on_demand(cloud: Any, on_demand: Any) -> None:
    """EC2 takes back no On-Demand Instance."""
    for act in (cloud.interrupt, cloud.recommend_rebalance):
        with pytest.raises(LocalCloudError) as raised:
            act(on_demand.instance_id)
        message = f"'instance_id' must be a Spot Instance, got {on_demand.instance_id}, which is On-Demand"
        assert str(raised.value) == message
    assert found(cloud, on_demand) == on_demand


def test_fails_when_no_such_instance_runs(cloud: Any) -> None:
    """A name that is none is an error, not a fault that never shows."""
    for act in (cloud.interrupt, cloud.recommend_rebalance, cloud.drop):
        with pytest.raises(LocalCloudError, match=r"^no instance i-none$"):
            act("i-none")


def test_fails_when_the_instance_is_interrupted_already(cloud: Any, spot: Any) -> None:
    """What EC2 said once stands."""
    cloud.interrupt(spot.instance_id)

    with pytest.raises(LocalCloudError, match=f"^{spot.instance_id} is already being interrupted$"):
        cloud.interrupt(spot.instance_id)


def test_fails_when_the_notice_comes_too_late(cloud: Any, spot: Any) -> None:
    """There may be no time left, but not less."""
    with pytest.raises(LocalCloudError, match=r"^'notice_seconds' must be at least 0, got -1$"):
        cloud.interrupt(spot.instance_id, notice_seconds=-1)


def test_dropped_instances_say_nothing(cloud: Any, fleets: Any) -> None:
    """All of an instance's processes stop, nothing else learns of it, and it can still be terminated."""
    # GIVEN
    fleet = fleets.create(user_data=user_data("setsid sleep 600 & sleep 600", switch="sleep 600"))
    fleet.scale(1)
    instance = started(cloud, fleet)[0]
    eventually(lambda: processes(instance), lambda pids: len(pids) == 5)

    # WHEN
    cloud.drop(instance.instance_id)

    # THEN
    def states() -> list[str]:
        return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in processes(instance)]

    assert eventually(states, lambda seen: seen == ["T"] * 5) == ["T"] * 5
    seen = found(cloud, instance)
    assert (seen.pid, seen.switch_pid, seen.dropped) == (instance.pid, instance.switch_pid, True)
    assert [member["LifecycleState"] for member in fleet.members()] == ["InService"]

    # WHEN
    fleet.scale(0)

    # THEN
    assert eventually(lambda: processes(instance), lambda pids: not pids) == []
    assert found(cloud, instance) is None
