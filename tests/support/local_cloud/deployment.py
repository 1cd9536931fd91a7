"""The deployed app under test: what tests ask of it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from horovod_client import Run, RunFailed, RunStatus, TrainingClient
from horovod_local import LocalCloud
from horovod_node import contract
from horovod_node.ledger.ledger import Lease, Ledger, NodeItem
from support.synthesis import REPOSITORY
from support.waiting import eventually

RULES = {"clean-up": "CleanUpRule", "reaper": "ReaperSchedule"}
"""Layer to a part of its EventBridge rule's name."""
SCRIPTS = REPOSITORY / "tests" / "local" / "scripts"
HEARTBEAT_SECONDS = 15

SETTINGS = {
    "heartbeat_seconds": HEARTBEAT_SECONDS,
    "max_restarts": 0,
    "spot_seconds": 120,
    "launch_seconds": 120,
    "start_seconds": 240,
    "first_step_seconds": 240,
    "stall_seconds": 60,
    "poll_seconds": 1,
    "queue_minutes": 10,
}
"""Times for nodes that boot in a second, on a loaded machine in some more; everything else is `app.py` as it is."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """`app.py`, deployed into a local cloud."""

    cloud: LocalCloud

    @cached_property
    def training(self) -> TrainingClient:
        """What an ML engineer uses."""
        return self.cloud.training()

    def start(self, script: str, *, gpus: int = 2, **options: Any) -> Run:
        """Start a run of one of the folder's scripts."""
        return self.training.fit(SCRIPTS / script, gpus=gpus, **options)

    def start_past_the_client(self, arguments: Mapping[str, Any]) -> Run:
        """Start an execution without the client's checks, as any caller of the API can."""
        self.cloud.client("stepfunctions").start_execution(**arguments)
        return Run.from_id(arguments["name"], client=self.training)

    def instances_left(self) -> list[str]:
        """List every instance that Auto Scaling or EC2 still has."""
        groups = self.cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        reservations = self.cloud.client("ec2").describe_instances(
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "shutting-down"]}]
        )["Reservations"]
        listed = {item["InstanceId"] for group in groups for item in group["Instances"]}
        running = {item["InstanceId"] for reservation in reservations for item in reservation["Instances"]}
        return sorted(listed | running)

    def assert_nothing_is_left(self) -> None:
        """See that there is no instance, no process and no lease."""
        assert self.instances_left() == []
        assert eventually(self.cloud.instances, lambda instances: not instances) == []
        assert self.lease() is None

    def lease(self, fleet: int = 0) -> dict[str, Any] | None:
        """Read the lease of the training's first fleet, or of another one."""
        return self.item(contract.lease_key(self.training.connection.fleets[fleet].id))

    def queue(self) -> list[str]:
        """List the runs that wait, in their order."""
        item = self.item(contract.queue_key(self.training.connection.queue)) or {}
        prefix = contract.WAITER_PREFIX
        runs = [name.removeprefix(prefix) for name in item if name.startswith(prefix)]
        return sorted(runs, key=lambda run: (int(item[contract.PLACE_PREFIX + run]["N"]), run))

    def item(self, key: tuple[str, str]) -> dict[str, Any] | None:
        """Read one item of the ledger."""
        item: dict[str, Any] | None = (
            self.cloud.client("dynamodb")
            .get_item(
                TableName=self.training.connection.ledger_table,
                Key={contract.PARTITION_KEY: {"S": key[0]}, contract.SORT_KEY: {"S": key[1]}},
                ConsistentRead=True,
            )
            .get("Item")
        )
        return item

    def metric(self, run: Run, name: str, statistic: str) -> float:
        """Read a statistic of one of *run*'s metrics, over all of its life."""
        now = datetime.now(UTC)
        (found,) = self.cloud.client("cloudwatch").get_metric_statistics(
            Namespace=contract.METRIC_NAMESPACE,
            MetricName=name,
            Dimensions=[
                {"Name": contract.METRIC_TRAINING, "Value": self.training.connection.queue},
                {"Name": contract.METRIC_RUN, "Value": run.name},
            ],
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(minutes=1),
            Period=7200,
            Statistics=[statistic],
        )["Datapoints"]
        return float(found[statistic])

    @property
    def ledger(self) -> Ledger:
        """The ledger, read as nodes read it."""
        return Ledger(self.cloud.client("dynamodb"), table=self.training.connection.ledger_table)

    def lease_of(self, run: Run, attempt: int) -> Lease:
        """Name an attempt of *run* as a lease does."""
        return Lease(
            fleet=self.fleet_of(run),
            run=run.name,
            run_id=run.run_id,
            attempt=attempt,
            leader_market="",
            expires_at=0,
            ends_by=0,
        )

    def nodes(self, run: Run, *, attempt: int = 1) -> dict[str, NodeItem]:
        """List the nodes that ever joined *attempt*, by name."""
        return {item.id: item for item in self.ledger.nodes(self.lease_of(run, attempt))}

    def switch(self, layer: str, *, on: bool) -> None:
        """Enable or disable the EventBridge rule of a layer."""
        events = self.cloud.client("events")
        for rule in events.list_rules()["Rules"]:
            if RULES[layer] in rule["Name"]:
                (events.enable_rule if on else events.disable_rule)(Name=rule["Name"])

    def fleet_of(self, run: Run) -> str:
        """Name the fleet that *run* was given; '' while it has none."""
        item = self.item(contract.run_key(run.run_id)) or {}
        return str(item.get(contract.FLEET, {}).get("S", ""))

    def leader_of(self, run: Run) -> str:
        """Name the instance that leads *run*, once there is one."""
        item = self.item(contract.leader_key(self.fleet_of(run), run.run_id, 1)) or {}
        return str(item.get(contract.NODE, {}).get("S", ""))

    def model(self, run: Run) -> dict[str, bytes]:
        """Read the files of the run's model."""
        answer = self.cloud.client("s3").get_object(
            Bucket=run.connection.model_bucket, Key=contract.model_key(run.run_id)
        )
        with tarfile.open(fileobj=io.BytesIO(answer["Body"].read())) as archive:
            files = {member.name: archive.extractfile(member) for member in archive.getmembers() if member.isfile()}
            return {name.removeprefix("./"): file.read() for name, file in files.items() if file}

    def logs(self, run: Run) -> dict[str, list[str]]:
        """Read the run's log streams: the lines of each, by its name."""
        logs, group = self.cloud.client("logs"), self.training.connection.log_group
        answer = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{run.name}/")
        names = [stream["logStreamName"] for stream in answer["logStreams"]]
        return {
            name: [
                event["message"]
                for event in logs.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True)["events"]
            ]
            for name in names
        }

    def upload(self, key: str, body: bytes) -> str:
        """Put an object into the data bucket and return its address."""
        bucket = self.training.connection.data_bucket
        self.cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
        return f"s3://{bucket}/{key}"

    def states_of(self, run: Run) -> list[str]:
        """List the states that the execution entered, in order."""
        pages = self.cloud.client("stepfunctions").get_paginator("get_execution_history")
        return [
            event["stateEnteredEventDetails"]["name"]
            for page in pages.paginate(executionArn=run.execution_arn)
            for event in page["events"]
            if event["type"].endswith("StateEntered")
        ]


def wait(run: Run) -> RunStatus:
    """Wait for the end of *run*, whatever it is."""
    try:
        return run.wait(poll_seconds=0.2)
    except RunFailed:
        return run.status()


def facts(model: dict[str, bytes]) -> dict[str, Any]:
    """Read what `trains_briefly.py` left."""
    found: dict[str, Any] = json.loads(model["facts.json"])
    return found
