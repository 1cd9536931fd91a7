"""Which statements of the deployed policies runs need; those that none of these runs used are explained in a table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from aws_cdk import CfnOutput, Stack
from aws_cdk import aws_iam as iam
from deployment import SCRIPTS, Deployment, wait
from lab import REAPER, SCHEDULE_SPEED, Lab, synthesise_lab, until

from cdk_horovod import HorovodTraining
from horovod_client import Run, TrainingClient
from horovod_local import LocalCloud
from horovod_local.permissions.record import unused
from patience import SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.local]

GRANTS: Final = ("start", "read", "stop")

NOT_EMULATED: Final = {
    r"Network.*FlowLog.*": "VPC itself writes flow logs",
    r".*PullImage.*": "an instance's boot script pulls the image; nodes are processes here",
    r".* xray:\w+": "Step Functions itself sends traces",
    r"arn:aws:iam:.*:role/Training-(Network.*FlowLog|Fleet).*": "VPC and EC2 assume these roles themselves",
    r"arn:aws:s3:::.*log.*": "S3 itself writes access logs",
    r"arn:aws:kms:.*\[1\].*": "the key of a topic, which no alarm here publishes to",
    r"vpce-.*": "endpoints of services that nothing here calls, such as the image registry",
}
"""Statements that services of AWS use by themselves, by pattern, and which service."""

RARE: Final = {
    r".*(Abort|ListMultipart\w*) ?.*": "only an upload in parts that fails, or is taken up again, needs them",
    r".* (arn:aws:ec2:.*:(capacity-reservation|placement-group|snapshot)/.*|arn:aws:resource-groups:.*)": (
        "only fleets with reservations, EFA or images of their own have them"
    ),
}
"""What deployments or faults need that are not tried here, by pattern, and which."""


def grant(training: HorovodTraining) -> None:
    """Make a role for each grant, which the account may assume; its ARN is an output."""
    for kind in GRANTS:
        role = iam.Role(Stack.of(training), f"May{kind.title()}", assumed_by=iam.AccountRootPrincipal())
        getattr(training, f"grant_{kind}")(role)
        CfnOutput(Stack.of(training), f"Role{kind.title()}", value=role.role_arn)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A training of two fleets, with roles that were granted what clients need."""
    out = tmp_path_factory.mktemp("used") / "cdk.out"
    synthesise_lab(out, extend=grant, max_restarts=1)
    with LocalCloud(home=tmp_path_factory.mktemp("used-cloud"), schedule_speed=SCHEDULE_SPEED) as cloud:
        cloud.deploy(out, tell=lambda _line: None)
        yield Lab(app=Deployment(cloud=cloud))


def role_of(lab: Lab, kind: str) -> str:
    """Name the role that was granted *kind*."""
    stack = lab.cloud.client("cloudformation").describe_stacks(StackName="Training")["Stacks"][0]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    return str(outputs[f"Role{kind.title()}"])


def as_role(lab: Lab, kind: str) -> TrainingClient:
    """Connect as the role that was granted *kind*."""
    return lab.cloud.training(role_arn=role_of(lab, kind))


def succeed(lab: Lab, folder: Path) -> None:
    """Train, and look at everything that a client can look at, with the permission to start alone, or to read."""
    client = as_role(lab, "start")
    client.estimate(gpus=2)
    run = client.fit(SCRIPTS / "steps_only.py", gpus=2, hyperparameters={"seconds": 5})
    assert wait(run).state == "SUCCEEDED"
    reader = Run.from_id(run.name, client=as_role(lab, "read"))
    assert until(SECONDS, lambda: reader.status().state == "SUCCEEDED")
    assert reader.receipt()["outcome"] == "succeeded"
    reader.download_model(folder / "model")
    list(reader.logs())
    assert reader.cost() is not None
    assert as_role(lab, "read").runs()


def restart(lab: Lab) -> None:
    """Lose the leader once it trains, and start again from what it left."""
    run = lab.app.start("checkpoints.py", gpus=1, hyperparameters={"seconds": 15}, max_restarts=1)
    assert until(SECONDS, lambda: lab.steps_of(run) > 3)
    lab.cloud.lose(lab.leader_of(run).instance_id)
    wait(run)


def stop(lab: Lab, *, layers: tuple[str, ...]) -> None:
    """Stop a run, as the role that may, and let *layers* end its nodes."""
    for layer in ("clean-up", "reaper"):
        lab.switch(layer, on=layer in layers)
    run = lab.start(gpus=1, seconds=600)
    assert until(SECONDS, lambda: lab.steps_of(run) > 0)
    may_stop = lab.cloud.client("stepfunctions", role_arn=role_of(lab, "stop"))
    may_stop.stop_execution(executionArn=run.execution_arn)
    assert until(SECONDS + 2 * REAPER, lambda: lab.app.lease() is None)
    lab.heal()


def test_every_statement_is_used_or_explained(lab: Lab, tmp_path: Path) -> None:
    """Success, restart, stop with each layer and a hanging agent: no request is denied, and each statement is known."""
    # WHEN
    succeed(lab, tmp_path)
    restart(lab)
    stop(lab, layers=("clean-up",))
    stop(lab, layers=("reaper",))
    # THEN
    told = lab.cloud.permissions()
    (tmp_path / "permissions.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    assert told["denials"] == []
    explained = {**NOT_EMULATED, **RARE}
    left = [name for name in unused(told["statements"]) if not any(re.search(part, name) for part in explained)]
    assert left == []
    assert [part for part in explained if not any(re.search(part, name) for name in unused(told["statements"]))] == []
