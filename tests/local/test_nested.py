"""`examples/nested` in the local cloud: a release trains a run, waits for it, and takes it along when it is stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from horovod_client import Run, TrainingClient
from horovod_client.submit.source import package_source
from horovod_local import LocalCloud
from horovod_node import contract
from support.local_cloud.deployment import SCRIPTS, Deployment, facts
from support.synthesis import REPOSITORY, synthesise
from support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.local]

STACK = "NestedTraining"


@dataclass(frozen=True, kw_only=True)
class Releases(Deployment):
    """The deployed example."""

    @property
    def training(self) -> TrainingClient:
        return self.cloud.training(STACK)

    def release(self, script: str) -> str:
        """Upload a script, and start a release with a request as the client prints it; the execution's ARN."""
        printed = self.training.fit(SCRIPTS / script, gpus=2, dry_run=True)
        package = package_source(SCRIPTS / script)
        self.upload(contract.source_key(package.digest), package.archive)
        outputs = self.cloud.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]["Outputs"]
        (machine,) = (each["OutputValue"] for each in outputs if each["OutputKey"] == "ReleaseArn")
        started = self.cloud.client("stepfunctions").start_execution(
            stateMachineArn=machine, name=script.removesuffix(".py").replace("_", "-"), input=printed["input"]
        )
        return str(started["executionArn"])

    def described(self, release: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.cloud.client("stepfunctions").describe_execution(executionArn=release)
        return answer

    def run_of(self, release: str) -> Run:
        """Find the run that a release has started."""
        name = f"release-{release.rpartition(':')[2]}"
        listed = eventually(
            lambda: self.cloud.client("stepfunctions").list_executions(
                stateMachineArn=self.training.connection.state_machine
            )["executions"],
            lambda executions: any(each["name"] == name for each in executions),
        )
        assert name in {each["name"] for each in listed}
        return Run.from_id(name, client=self.training)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    out: Path = tmp_path_factory.mktemp("nested")
    synthesise(out / "cdk.out", app=REPOSITORY / "examples" / "nested")
    with LocalCloud(home=out / "cloud") as cloud:
        cloud.deploy(out / "cdk.out")
        yield Releases(cloud=cloud)
        assert cloud.permissions()["denials"] == []


def test_release_trains_and_publishes_the_model(app: Releases) -> None:
    """A release waits for its run, has the run's output, and writes the model's address where others look for it."""
    # WHEN
    release = app.release("trains_briefly.py")
    ended = eventually(lambda: app.described(release), lambda seen: seen["status"] != "RUNNING")

    # THEN
    assert (ended["status"], ended.get("cause")) == ("SUCCEEDED", None)
    run = app.run_of(release)
    assert json.loads(ended["output"])["model"] == run.model_uri
    parameter = app.cloud.client("ssm").get_parameter(Name="/digits/model")["Parameter"]
    assert parameter["Value"] == run.model_uri
    # AND it is the model of two real ranks, and the run knows who started it
    assert facts(app.model(run))["ranks"] == 2
    given = json.loads(app.described(run.execution_arn)["input"])
    assert given[contract.STARTED_BY] == release
    app.assert_nothing_is_left()


def test_a_stopped_release_takes_its_run_along(app: Releases) -> None:
    """When a release is stopped during the training, its run is stopped, and no node is left."""
    # GIVEN a run that trains
    release = app.release("trains_long.py")
    run = app.run_of(release)
    assert eventually(run.status, lambda status: status.phase == "training" or status.state != "RUNNING").phase == (
        "training"
    )

    # WHEN
    app.cloud.client("stepfunctions").stop_execution(executionArn=release)

    # THEN
    ended = eventually(run.status, lambda status: status.state != "RUNNING")
    assert ended.state == "ABORTED"
    # AND the clean-up terminates its nodes, and then frees the fleet
    assert eventually(app.lease, lambda lease: lease is None) is None
    app.assert_nothing_is_left()
