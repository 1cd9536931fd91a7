"""Which statements of the deployed policies runs need; what none of these runs used has a reason, in a table."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from aws_cdk import CfnOutput, Stack
from aws_cdk import aws_iam as iam
from botocore.exceptions import ClientError

from cdk_horovod import HorovodTraining
from horovod_client import Run, TrainingClient
from horovod_client.results.tensorboard import TensorBoardFiles
from horovod_local import Faults, LocalCloud
from horovod_local.permissions.policy import DENY
from horovod_node import contract
from support.faults.lab import LAUNCH, REAPER, SCHEDULE_SPEED, Lab, synthesise_lab, until
from support.local_cloud.deployment import SCRIPTS, Deployment, wait
from support.waiting import SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.local]

GRANTS: Final = ("start", "read", "stop")

OWNERS: Final = {
    r"Network.*FlowLog": "flow logs",
    r"CleanUp\w*EventsRole|Reaper\w*EventsRole": "rule",
    r"CleanUp": "clean-up",
    r"Reaper": "reaper",
    r"TrainingStateMachineRole": "run",
    r"Fleet|NodePolicy|PullImage": "node",
    r"^May": "client",
}
"""Parts of policies' names to whose they are."""
RANDOM: Final = (
    r":eu-west-1|:123456789012|(?<=[a-zA-Z0-9])-[A-Za-z0-9]{12}(?=[:/]|$)|[0-9a-f]{8}-[0-9a-f-]{27}"
    r"|(?<=Fleet)(One|Two)|(?<=GroupASG)[0-9A-F]{8}|(?<=bucket)[0-9a-f]{8}"
)
"""What ARNs have of one deployment, and of one of its fleets."""

REASONS: Final = {
    r"(flow logs|trust): .*": "VPC writes flow logs, and services take on roles, without a request that is seen here",
    r"bucket: (s3:PutObject|arn:aws:s3:::training-storagelogbucket/.*)": "S3 itself delivers its access logs",
    r"(run|clean-up|reaper): xray:.*": "Step Functions itself sends traces",
    r"(node: .*ecr.*|node: \*|endpoint: .*)": "Docker pulls the image; here nodes are processes",
    r"node: s3:(AbortMultipartUpload|ListMultipartUploadParts)": "an upload in parts that fails takes its parts back",
    r"node: sts:AssumeRole": "EC2 takes on the node's role",
    r"run: arn:aws:(ec2:(capacity-reservation|placement-group|:snapshot)|resource-groups:group)/\*": (
        "a launch asks for what it touches; this fleet has no reservation, and its volumes come from an image"
    ),
    r"run: pricing:getProducts": "the Price List API has no endpoint in this Region; elsewhere the run asks it",
    r"run: kms:Decrypt": "KMS is not acted here",
    r"run: arn:aws:s3:::training-storagemodelbucket": "only who may list hears that a model is missing; none is here",
    r"run: dynamodb:getItem": "only of a ring that does not form in time is it asked who leads it",
    r"reaper: arn:aws:states:execution:Training-TrainingCleanUpStateMachine.*": (
        "a lease that the clean-up holds is reaped when that execution does not run any more"
    ),
    r"client: .*/checkpoints/.*": "people fetch the checkpoint of a run that failed with tools of their own",
}
"""What none of the runs here uses, by pattern, and why the deployment has it."""


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
    synthesise_lab(out, extend=grant, max_restarts=1, keep_checkpoints=1)
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


def protect(lab: Lab) -> None:
    """Protect every instance from scale-in, as a person may: a capacity of 0 does not end it."""
    api = lab.cloud.client("autoscaling")
    for group in api.describe_auto_scaling_groups()["AutoScalingGroups"]:
        ids = [instance["InstanceId"] for instance in group["Instances"]]
        if ids:
            api.set_instance_protection(
                AutoScalingGroupName=group["AutoScalingGroupName"], InstanceIds=ids, ProtectedFromScaleIn=True
            )


def succeed(lab: Lab, folder: Path) -> None:
    """Train, and look at everything that a client can look at: with the permission to start alone, then to read."""
    client = as_role(lab, "start")
    client.estimate(gpus=2)
    data = lab.app.upload("numbers/part-0.txt", b"1 2 3")
    lab.cloud.set_faults(Faults(launch_delay_seconds=LAUNCH))
    run = client.fit(
        SCRIPTS / "leaves_everything.py",
        gpus=2,
        data={"numbers": data.rpartition("/")[0] + "/"},
        hyperparameters={"seconds": 10},
        max_cost_usd=100,
    )
    reader = Run.from_id(run.name, client=as_role(lab, "read"))
    # While instances are pending, a status asks the group for them.
    assert until(SECONDS, lambda: len(reader.status().nodes) == 2)
    lab.heal()
    assert until(SECONDS, lambda: len(reader.status().nodes) == 2 and lab.steps_of(run) > 0)
    protect(lab)
    assert wait(run).state == "SUCCEEDED"
    assert reader.status().state == "SUCCEEDED"
    assert reader.receipt()["outcome"] == "succeeded"
    reader.download_model(folder / "model")
    assert list(reader.logs())
    assert reader.cost() is not None
    assert as_role(lab, "read").runs()
    files = TensorBoardFiles(
        lab.cloud.client("s3", role_arn=role_of(lab, "read")),
        bucket=lab.app.training.connection.model_bucket,
        run_id=run.run_id,
        folder=folder,
    )
    assert files.sync() == 1


def be_switched_off(lab: Lab) -> None:
    """Stop a run whose nodes nobody but their switches ends."""
    for layer in ("clean-up", "reaper"):
        lab.switch(layer, on=False)
    run = lab.start(gpus=1, seconds=600)
    assert until(SECONDS, lambda: lab.steps_of(run) > 0)
    run.stop()
    assert until(SECONDS, lambda: not lab.app.instances_left())
    lab.heal()
    assert until(SECONDS + 2 * REAPER, lambda: lab.app.lease() is None)


def fail(lab: Lab) -> None:
    """Run a script that raises."""
    assert wait(lab.app.start("raises.py", gpus=1)).state == "FAILED"


def restart(lab: Lab) -> None:
    """Lose the leader once it has left a second checkpoint and pruned the first, and start again from it."""
    run = lab.app.start("leaves_everything.py", gpus=1, hyperparameters={"seconds": 30}, max_restarts=1)
    models, prefix = lab.app.training.connection.model_bucket, contract.CHECKPOINT_PREFIX
    s3 = lab.cloud.client("s3")
    second = f"{run.run_id}/0001-00000002/"
    assert until(SECONDS, lambda: second in str(s3.list_objects_v2(Bucket=models, Prefix=prefix)))
    lab.cloud.lose(lab.leader_of(run).instance_id)
    assert wait(run).state == "SUCCEEDED"


def stop(lab: Lab, *, layers: tuple[str, ...]) -> None:
    """Stop a run, as the role that may, and let *layers* end its nodes."""
    for layer in ("clean-up", "reaper"):
        lab.switch(layer, on=layer in layers)
    run = lab.start(gpus=1, seconds=600)
    assert until(SECONDS, lambda: lab.steps_of(run) > 0)
    protect(lab)
    may_stop = lab.cloud.client("stepfunctions", role_arn=role_of(lab, "stop"))
    may_stop.stop_execution(executionArn=run.execution_arn)
    assert until(SECONDS + 2 * REAPER, lambda: lab.app.lease() is None)
    lab.heal()


def parts(statements: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Name each action and resource of the statements that allow, of any fleet and deployment, with who used it."""
    found: dict[str, set[str]] = defaultdict(set)
    for statement in statements:
        if statement["effect"] == DENY:
            continue
        own = statement["policy"].rpartition("/")[2]
        owner = next((kind for written, kind in OWNERS.items() if re.search(written, own)), statement["owner"])
        for kind in ("actions", "resources"):
            for written, who in statement[kind].items():
                name = re.sub(RANDOM, "", written)
                found[f"{owner}: {name[0].lower() + name[1:]}"].update(who)
    return found


def test_every_statement_is_used_or_explained(lab: Lab, tmp_path: Path) -> None:
    """Success, failure, restart, a stop with each layer: no request is denied, and what nothing used has a reason."""
    # WHEN
    succeed(lab, tmp_path)
    fail(lab)
    be_switched_off(lab)
    restart(lab)
    stop(lab, layers=("clean-up",))
    stop(lab, layers=("reaper",))
    # THEN
    told = lab.cloud.permissions()
    (tmp_path / "permissions.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    assert told["denials"] == []
    idle = {name for name, who in parts(told["statements"]).items() if not who}
    assert sorted(name for name in idle if not any(re.fullmatch(reason, name) for reason in REASONS)) == []
    assert [reason for reason in REASONS if not any(re.fullmatch(reason, name) for name in idle)] == []


def test_watchers_see_no_token(lab: Lab) -> None:
    """Who may look at a run, start or stop one, reads nothing with which to answer for it."""
    # GIVEN
    run = lab.start(gpus=1, seconds=600)
    assert until(SECONDS, lambda: lab.steps_of(run) > 0)
    key = contract.task_key(lab.app.fleet_of(run), run.run_id, 1, contract.TASK_TRAIN)
    read = {
        "TableName": lab.app.training.connection.ledger_table,
        "Key": {contract.PARTITION_KEY: {"S": key[0]}, contract.SORT_KEY: {"S": key[1]}},
    }
    assert contract.TOKEN in lab.cloud.client("dynamodb").get_item(**read)["Item"]
    # WHEN, THEN
    for kind in GRANTS:
        watcher = lab.cloud.client("dynamodb", role_arn=role_of(lab, kind))
        with pytest.raises(ClientError, match="AccessDenied"):
            watcher.get_item(**read)
    run.stop()
    assert until(SECONDS, lambda: lab.app.lease() is None)
