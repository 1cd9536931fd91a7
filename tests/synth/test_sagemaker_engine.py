"""The SageMaker engine at synthesis: its jobs, their names and limits, its permissions, and what it refuses."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from aws_cdk import App, Duration, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam

from cdk_horovod import CapacityAttempt, CapacityPlan, Engine, HorovodTraining, TrainingImage, TrainingStorage
from cdk_horovod.asl.resolved import by_layer
from cdk_horovod.engines.sagemaker import NOT_OF_SAGEMAKER
from cdk_horovod.engines.training_job_states import JOB, JOBS_OF_THE_RUN
from cdk_horovod.fleet.gpu_types import GPU_INSTANCE_TYPES
from horovod_local.corrections.step_functions.jsonata import evaluate
from horovod_node import contract
from support import asl
from support.construct_stacks import Stacks, flat, synthesise_validated

pytestmark = pytest.mark.synth

TYPES = ["ml.g5.xlarge", "ml.g5.12xlarge"]
NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
"""Of a training job, in SageMaker's API Reference (`CreateTrainingJob`)."""


def add_training(stack: Stack, **settings: Any) -> HorovodTraining:
    """Add a training on SageMaker."""
    return HorovodTraining(
        stack,
        "Training",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
        engine=Engine.sagemaker(**{"instance_types": TYPES, "max_gpus": 16, **settings}),
    )


OUTPUT = json.dumps(
    {
        contract.CONNECTION_STATE_MACHINE: "arn:aws:states:eu-west-1:111122223333:stateMachine:Runs",
        contract.CONNECTION_DATA_BUCKET: "data",
        contract.CONNECTION_MODEL_BUCKET: "models",
        contract.CONNECTION_LEDGER_TABLE: "ledger",
        contract.CONNECTION_LOG_GROUP: "nodes",
        contract.CONNECTION_QUEUE: "TeamTraining",
        contract.CONNECTION_FLEETS: [
            {
                contract.CONNECTION_FLEET: f"sagemaker-{number}",
                contract.CONNECTION_JOB_PREFIX: f"training-0a1b2c3d-{number}-",
            }
            for number in (1, 2)
        ],
    }
)
"""Connection of a training in another app."""


def reader(stack: Stack) -> iam.Role:
    """Add a role of a person."""
    return iam.Role(stack, "Reader", assumed_by=iam.AccountRootPrincipal())


def build(app: App) -> None:
    """Add a stack without a VPC and with two jobs at a time, and one in a VPC."""
    training = add_training(Stack(app, "Open"), max_concurrent_jobs=2)
    training.grant_read(reader(Stack.of(training)))
    elsewhere = Stack(app, "Elsewhere")
    HorovodTraining.from_stack_output(elsewhere, "Training", output=OUTPUT).grant_read(reader(elsewhere))
    closed = Stack(app, "Closed")
    vpc = ec2.Vpc(closed, "Vpc", nat_gateways=0)
    vpc.add_flow_log("Flow")
    subnets = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)
    add_training(closed, vpc=vpc, vpc_subnets=subnets, encrypt_traffic=True)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    """Both stacks, which cdk-nag accepts."""
    return synthesise_validated(tmp_path_factory.mktemp("sagemaker"), build)


@pytest.fixture(scope="module")
def run(stacks: Stacks) -> Mapping[str, Any]:
    """The state machine of a run."""
    return by_layer(stacks.templates["Open"].to_json())["run"]


def create(run: Mapping[str, Any]) -> asl.State:
    """Get the state that creates a job."""
    found: asl.State = run["States"]["Start nodes"]["Branches"][0]["States"]["Create the job"]
    return found


def case(**changes: Any) -> dict[str, Any]:
    """Give the variables of a run that asks for a job of two nodes of four GPUs."""
    return {
        "run": "digits",
        "run_id": "Training/digits/20261127T120000Z",
        "attempt": 1,
        "held": 0,
        "spent": 0,
        "fleet": {"id": "sagemaker-1", "group": "training-0a1b2c3d-1"},
        "request": {"gpus": 8, contract.MAX_RUNTIME_SECONDS: 7200},
        "prices": [{"instance_type": "ml.g5.12xlarge", "market": "on-demand", "zone": "", "usd": 7.0}],
        "times": {},
        "search": {
            "attempt": {
                "instance_type": "ml.g5.12xlarge",
                "node_gpus": 4,
                "market": contract.ON_DEMAND,
                "seconds": 1800,
            }
        },
        "states": {"context": {"Execution": {}}},
        **changes,
    }


def test_a_job_has_a_name_that_sagemaker_takes_once(run: Mapping[str, Any]) -> None:
    """Whatever a run is called, its job's name is valid, lower case, and of this attempt of this execution alone."""
    # GIVEN runs with odd names, a second attempt, and a later execution of the same name
    cases = [
        case(run=name, run_id=f"Training/{name}/20261127T120000Z")
        for name in ("digits", "___", "-x-", "A" * 80, "run_" * 20, "0")
    ]
    cases += [case(attempt=28), case(run_id="Training/digits/20270301T120000Z")]
    # WHEN
    names = asl.by_reference(cases, asl.bare(create(run)["Arguments"]["TrainingJobName"]))
    # THEN
    assert [name for name in names if not re.fullmatch(NAME, name) or name != name.lower()] == []
    assert len(set(names)) == len(names)
    assert all(name.startswith("training-0a1b2c3d-1-") for name in names)
    # AND the same expression without the fence finds the job again
    assert names == asl.by_reference(cases, JOB)
    assert names == [evaluate(JOB, variables) for variables in cases]
    # AND clients compute it, too
    assert names == [
        contract.job_name("training-0a1b2c3d-1-", run_id=each["run_id"], attempt=each["attempt"]) for each in cases
    ]


def stopping(run: Mapping[str, Any], *cases: Mapping[str, Any]) -> list[dict[str, int]]:
    """Evaluate the stopping condition of a job."""
    expression = asl.bare(create(run)["Arguments"]["StoppingCondition"])
    found: list[dict[str, int]] = asl.by_reference(list(cases), expression)
    assert found == [evaluate(expression, variables) for variables in cases]
    return found


def test_sagemaker_ends_a_job_when_its_time_is_over(run: Mapping[str, Any]) -> None:
    """A job may run for the request's time, and for forming and saving; earlier attempts count."""
    fresh, again = stopping(run, case(), case(spent=7000))
    assert fresh == {"MaxRuntimeInSeconds": 7200 + 1800 + 3600}
    assert again == {"MaxRuntimeInSeconds": 200 + 1800 + 3600}


def test_only_spot_waits(run: Mapping[str, Any]) -> None:
    """A Spot job waits for capacity as long as its attempt; SageMaker refuses a wait of any other job."""
    spot = case()
    spot["search"] = {"attempt": {**spot["search"]["attempt"], "market": contract.SPOT, "seconds": 900}}
    (found,) = stopping(run, spot)
    assert found == {"MaxRuntimeInSeconds": 11_700, "MaxWaitTimeInSeconds": 12_600}


def test_sagemaker_ends_a_job_when_its_money_is_spent(run: Mapping[str, Any]) -> None:
    """A ceiling becomes seconds at the On-Demand price of all instances, from which earlier jobs' time is taken."""
    # GIVEN 14 USD an hour
    asked = datetime.fromtimestamp(time.time() - 1000, UTC).isoformat().replace("+00:00", "Z")
    request = {"gpus": 8, contract.MAX_RUNTIME_SECONDS: 7200, contract.MAX_COST_USD: 7}
    dear = {**request, contract.MAX_COST_USD: 0.01}
    expression = asl.bare(create(run)["Arguments"]["StoppingCondition"])
    # WHEN
    cases = [
        case(request=request),
        case(request=request, times={"asked_at": asked}),
        case(request=dear),
        case(request=request, prices=[]),
    ]
    first, second, third, unknown = (found["MaxRuntimeInSeconds"] for found in asl.by_reference(cases, expression))
    # THEN
    assert first == 1800
    assert 700 < second <= 800
    assert third == 60
    assert unknown == 12_600


def test_a_run_gets_only_types_that_divide_its_gpus(run: Mapping[str, Any]) -> None:
    """Attempts with nodes of four GPUs are left out of the plan of a run with two."""
    # GIVEN
    fleets = run["States"]["Check the request"]["Assign"]["fleets"]
    valid = asl.bare(run["States"]["Request valid?"]["Assign"]["fleets"])
    cases = [{"fleets": fleets, "states": {"input": {"gpus": gpus}}} for gpus in (2, 8)]
    cases.append({"fleets": fleets, "states": {"input": {"gpus": 8, contract.MIN_GPUS: 8}}})
    # WHEN
    small, large, whole = asl.by_reference(cases, valid)
    # THEN
    assert [attempt["words"] for attempt in small[0]["plan"]] == ["Spot ml.g5.xlarge", "On-Demand ml.g5.xlarge"]
    assert [attempt["words"] for attempt in large[0]["plan"]] == [
        "Spot ml.g5.xlarge",
        "Spot ml.g5.12xlarge",
        "On-Demand ml.g5.xlarge",
        "On-Demand ml.g5.12xlarge",
    ]
    assert whole == large
    assert [fleet["id"] for fleet in large] == ["sagemaker-1", "sagemaker-2"]


QUOTA = (
    "The account-level service limit 'ml.g5.xlarge for spot training job usage' is 0 Instances, with current "
    "utilization of 0 Instances and a request delta of 2 Instances."
)


def test_a_quota_of_one_type_leads_to_the_next(run: Mapping[str, Any]) -> None:
    """A quota's refusal is an answer: the next attempt is of another type, and the log has SageMaker's words."""
    # GIVEN
    refused, _ = run["States"]["Start nodes"]["Catch"]
    fleet = run["States"]["Check the request"]["Assign"]["fleets"][0]
    search = {"number": 1, "attempt": fleet["plan"][0], "since": 0, "starts": 1, "again": 0, "log": [], "step": "start"}
    variables = {
        "search": search,
        "fleet": fleet,
        "request": {"gpus": 8},
        "attempt": 1,
        "lost_attempts": [],
        "states": {"errorOutput": {"Cause": QUOTA}},
    }
    # WHEN
    (found,) = asl.by_reference([variables], asl.bare(refused["Assign"]["search"]))
    # THEN
    assert (found["number"], found["step"], found["log"][0]["outcome"]) == (2, "empty", "quota")
    assert "'ml.g5.xlarge for spot training job usage' in Service Quotas" in found["cause"]


@pytest.mark.parametrize(
    ("job", "gpus", "coming"),
    [
        ({"TrainingJobStatus": "InProgress", "SecondaryStatus": "Starting"}, 0, True),
        ({"TrainingJobStatus": "InProgress", "TrainingStartTime": "2026-11-27T12:00:00Z"}, 8, False),
        ({"TrainingJobStatus": "Failed", "TrainingStartTime": "2026-11-27T12:00:00Z"}, 0, False),
        ({"TrainingJobStatus": "Stopped"}, 0, False),
    ],
)
def test_a_job_without_instances_is_on_the_way(
    run: Mapping[str, Any], job: dict[str, Any], gpus: int, coming: bool
) -> None:
    """A job counts from its start of training on, one without instances is waited for, an ended one is neither."""
    expression = asl.bare(run["States"]["See what is there"]["Assign"]["search"])
    search = {"attempt": {"first": 900, "patient": True}, "since": int(time.time()), "looks": 0, "step": "look"}
    variables = {"search": search, "request": {"gpus": 8, contract.MIN_GPUS: 8}, "states": {"result": job}}
    # WHEN
    (found,) = asl.by_reference([variables], expression)
    # THEN
    assert found["step"] == ("wait" if gpus or coming else "look")


def test_only_jobs_of_the_fleet_count_and_are_stopped(run: Mapping[str, Any]) -> None:
    """A list has all jobs of the account; one of the fleet that was told to stop counts, and is not told again."""
    # GIVEN a page of the list
    names = {
        "training-0a1b2c3d-1-digits-1": "InProgress",
        "training-0a1b2c3d-1-other-1": "Stopping",
        "training-0a1b2c3d-1-older-1": "Completed",
        "other-training-0a1b2c3d-1-x": "InProgress",
        "training-0a1b2c3d-11-x": "InProgress",
    }
    page = {"TrainingJobSummaries": [{"TrainingJobName": name, "TrainingJobStatus": names[name]} for name in names]}
    stop, confirm = run["States"]["Look for jobs to stop"], run["States"]["Confirm that nothing runs"]
    pages = stop["Branches"][0]["States"]
    # WHEN
    (listed,) = asl.by_reference(
        [{"fleet": {"group": "training-0a1b2c3d-1"}, "states": {"result": page}}],
        asl.bare(pages["List jobs to stop"]["Assign"]["listed"]),
    )
    given = {"states": {"result": [{"jobs": listed}]}}
    (jobs,) = asl.by_reference([given], asl.bare(stop["Assign"]["jobs"]))
    (running,) = asl.by_reference([given], asl.bare(confirm["Assign"]["running"]))
    # THEN
    assert [job["name"] for job in jobs] == ["training-0a1b2c3d-1-digits-1"]
    assert running == 2
    assert asl.by_reference([{"states": {"result": [{"jobs": []}]}}], asl.bare(confirm["Assign"]["running"])) == [0]


def test_every_page_of_the_last_days_is_read(run: Mapping[str, Any]) -> None:
    """Older jobs than could still run end the list; a page without a job of ours does not."""
    # GIVEN
    states = run["States"]["Confirm that nothing runs"]["Branches"][0]["States"]
    following = asl.bare(states["List older jobs that run"]["Assign"]["page_after"])

    def page(*, days: float, after: str | None = "more") -> dict[str, Any]:
        created = datetime.fromtimestamp(time.time() - days * 86_400, UTC).isoformat().replace("+00:00", "Z")
        summary = {"TrainingJobName": "somebodys", "TrainingJobStatus": "Completed", "CreationTime": created}
        return {"TrainingJobSummaries": [summary], **({} if after is None else {"NextToken": after})}

    pages = [page(days=1), page(days=9), page(days=1, after=None), {"TrainingJobSummaries": []}]
    # WHEN
    tokens = asl.by_reference([{"states": {"result": each}} for each in pages], following)
    # THEN
    assert tokens == ["more", "", "", ""]
    assert states["List older jobs that run"]["Arguments"]["NextToken"] == "{% $page_after %}"
    assert not {"StatusEquals", "NameContains"} & set(states["List jobs that run"]["Arguments"])


JOB_OF_SPOT = {
    "job": "training-0a1b2c3d-1-digits-01234567-1",
    "instance_type": "ml.g5.12xlarge",
    "market": "spot",
    "nodes": 2,
    "seconds": 3600,
    "billed_seconds": 900,
}


def test_the_receipt_has_sagemakers_bill(run: Mapping[str, Any]) -> None:
    """What SageMaker bills is read of every job of the run, and is its billable time at the On-Demand price."""
    # GIVEN two of the run's jobs, one of another run, and SageMaker's description of the first
    begins = asl.by_reference([case()], JOBS_OF_THE_RUN)[0]
    names = [f"{begins}1", f"{begins}2", "training-0a1b2c3d-1-digits-ffffffff-1"]
    listed = {
        "context": {"Execution": {}},
        "result": {
            "TrainingJobSummaries": [{"TrainingJobName": name, "TrainingJobStatus": "Stopped"} for name in names]
        },
    }
    described = {
        "TrainingJobName": JOB_OF_SPOT["job"],
        "ResourceConfig": {"InstanceType": "ml.g5.12xlarge", "InstanceCount": 2},
        "EnableManagedSpotTraining": True,
        "TrainingTimeInSeconds": 3600,
        "BillableTimeInSeconds": 900,
    }
    look, bills = run["States"]["Look for jobs of the run"], run["States"]["Read the bills"]
    read = bills["ItemProcessor"]["States"]["Read the job's bill"]["Output"]
    # WHEN
    pages = look["Branches"][0]["States"]
    (jobs,) = asl.by_reference([case(states=listed)], asl.bare(pages["List jobs of the run"]["Assign"]["listed"]))
    (bill,) = asl.by_reference([{"states": {"result": described}}], asl.bare(read))
    # THEN
    assert [job["name"] for job in jobs] == names[:2]
    assert bill == JOB_OF_SPOT
    assert run["States"]["Release the fleet"]["Next"] == "Look for jobs of the run"


def statement(stacks: Stacks, stack: str, action: str) -> Mapping[str, Any]:
    """Find the only statement of the run's role that allows *action*."""
    (found,) = (
        each
        for each in stacks.statements(stack, role="TrainingStateMachineRole")
        if action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    )
    return found


def test_the_workflow_creates_only_such_jobs(stacks: Stacks) -> None:
    """Names, types, network, time and warm pools of the jobs that a run may create are those of the engine."""
    # WHEN
    open_, closed = (statement(stacks, stack, "sagemaker:CreateTrainingJob") for stack in ("Open", "Closed"))
    # THEN
    assert re.search(r":training-job/training-[0-9a-f]{8}-\*", str(open_["Resource"]))
    assert open_["Condition"] == {
        "ForAllValues:StringEquals": {"sagemaker:InstanceTypes": TYPES},
        "Null": {"sagemaker:InstanceTypes": "false", "sagemaker:KeepAlivePeriod": "true"},
        "NumericLessThanEquals": {"sagemaker:MaxRuntimeInSeconds": "432000"},
        "BoolIfExists": {"sagemaker:EnableRemoteDebug": "false"},
    }
    assert closed["Condition"]["Bool"] == {"sagemaker:InterContainerTrafficEncryption": "true"}
    assert set(closed["Condition"]["ForAllValues:StringEquals"]) == {
        "sagemaker:InstanceTypes",
        "sagemaker:VpcSubnets",
        "sagemaker:VpcSecurityGroupIds",
    }
    passed = statement(stacks, "Open", "iam:PassRole")
    assert passed["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert len(passed["Resource"]) == 2


def test_only_jobs_in_a_vpc_touch_network_interfaces(stacks: Stacks) -> None:
    """Without a VPC the script's role has no permission of EC2, and nobody can reach a container from outside."""
    actions = {
        stack: str([each["Action"] for each in stacks.statements(stack, role="TrainingJobRole")])
        for stack in ("Open", "Closed")
    }
    assert "ec2:" not in actions["Open"]
    assert "ec2:CreateNetworkInterface'" in actions["Closed"]
    assert stacks.resources("Open", "AWS::EC2::SecurityGroup") == {}
    (rule,) = stacks.resources("Closed", "AWS::EC2::SecurityGroupIngress").values()
    assert rule["GroupId"] == rule["SourceSecurityGroupId"]


def test_a_reader_may_describe_the_jobs_of_the_training_only(stacks: Stacks) -> None:
    """Whoever may watch runs may describe their jobs, in the app of the training and in another one."""
    (jobs,) = (
        statement["Resource"]
        for statement in stacks.statements("Open", role="Reader")
        if statement["Action"] == "sagemaker:DescribeTrainingJob"
    )
    imported = [
        statement["Resource"]
        for statement in stacks.statements("Elsewhere", role="Reader")
        if statement["Action"] == "sagemaker:DescribeTrainingJob"
    ]
    # THEN
    assert re.search(r":training-job/training-[0-9a-f]{8}-\*$", flat(jobs))
    assert [flat(each).rpartition("/")[2] for each in imported] == ["training-0a1b2c3d-1-*", "training-0a1b2c3d-2-*"]


def test_at_rest_there_is_nothing_to_pay(stacks: Stacks) -> None:
    """A training on SageMaker without a VPC has no network, group, or machine."""
    kinds = stacks.kinds("Open")
    assert not {kind for kind in kinds if kind.startswith(("AWS::EC2", "AWS::AutoScaling", "AWS::SageMaker"))}


def test_sagemaker_has_the_other_types() -> None:
    """Of the types that a fleet can use, SageMaker trains on all but the listed ones (botocore's model of its API)."""
    model = boto3.client("sagemaker", region_name="us-east-1").meta.service_model
    known = model.shape_for("TrainingInstanceType").enum  # type: ignore[attr-defined]
    assert {name for name in GPU_INSTANCE_TYPES if f"ml.{name}" not in known} == NOT_OF_SAGEMAKER


def test_an_engine_serves_one_training(tmp_path: Any) -> None:
    """Two trainings with the same engine would have the same jobs, so the second one is refused."""
    stack = Stack(App(outdir=str(tmp_path)), "Twice")
    engine = Engine.sagemaker(instance_types=TYPES, max_gpus=16, capacity_plan=CapacityPlan.on_demand())
    storage = TrainingStorage(stack, "Storage")
    image = TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1")
    HorovodTraining(stack, "One", storage=storage, image=image, engine=engine)
    # WHEN, THEN
    with pytest.raises(ValueError, match=r"^'engine' must serve one training; call Engine\.sagemaker once"):
        HorovodTraining(stack, "Two", storage=storage, image=image, engine=engine)


def test_time_limits_of_the_plan_reach_the_job(tmp_path: Any) -> None:
    """An attempt's time limit becomes the time for its job; without one the training's start timeout holds."""
    stack = Stack(App(outdir=str(tmp_path)), "Limits")
    plan = CapacityPlan.attempts(
        [CapacityAttempt(market="spot", time_limit=Duration.minutes(7)), CapacityAttempt(market="on-demand")]
    )
    training = add_training(stack, instance_types=TYPES[:1], capacity_plan=plan)
    assert [attempt["time_limit"] for attempt in training.engine.fleets[0].plan] == [420, None]
