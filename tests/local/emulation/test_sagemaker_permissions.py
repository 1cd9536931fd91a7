"""Permissions of training jobs: those of requests, and those of a job's role; Service Authorization Reference."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from horovod_local import Faults
from horovod_local.instances import opt_ml
from support.local_cloud.emulated_resources import ROLE
from support.local_cloud.training_jobs import job_request, log
from support.waiting import eventually

ACCOUNT = "123456789012"
JOBS = f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:training-job"
NETWORK = [
    "ec2:CreateNetworkInterface",
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
    "ec2:DescribeDhcpOptions",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
]
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
REPOSITORY = f"arn:aws:ecr:eu-west-1:{ACCOUNT}:repository/horovod"

MakeRole = Callable[..., str]


@pytest.fixture
def make_role(cloud: Any) -> MakeRole:
    """Make a role of the statements given, which trusts the account, or a service."""

    def make(*statements: dict[str, Any], service: str = "", **condition: Any) -> str:
        iam, name = cloud.client("iam"), f"role-{uuid.uuid4()}"
        trusted = {"Service": service} if service else {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": trusted, "Condition": condition}
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document(*statements))
        return f"arn:aws:iam::{ACCOUNT}:role/{name}"

    return make


def document(*statements: dict[str, Any]) -> str:
    """Write a policy."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(*actions: str, on: str = "*", **condition: Any) -> dict[str, Any]:
    """Write a statement."""
    return {"Effect": "Allow", "Action": list(actions), "Resource": on, "Condition": condition}


def refusal(cloud: Any, role: str, operation: str, request: dict[str, Any]) -> str:
    """Ask as a role; give what is not authorized, '' if everything is."""
    try:
        getattr(cloud.client("sagemaker", role_arn=role), operation)(**request)
    except ClientError as error:
        found: Any = error.response["Error"]
        assert found["Code"] != "NotDecidedByTheLocalCloud"
        # SageMaker itself may answer that there is no such job.
        return found["Message"] if found["Code"] == "AccessDeniedException" else ""
    return ""


@pytest.mark.parametrize(
    ("operation", "request_", "action", "resource"),
    [
        ("describe_training_job", {"TrainingJobName": "Prefix-1"}, "DescribeTrainingJob", f"{JOBS}/prefix-1"),
        ("stop_training_job", {"TrainingJobName": "Prefix-1"}, "StopTrainingJob", f"{JOBS}/prefix-1"),
        ("list_training_jobs", {}, "ListTrainingJobs", ""),
        ("add_tags", {"ResourceArn": f"{JOBS}/prefix-1", "Tags": []}, "AddTags", f"{JOBS}/prefix-1"),
        ("list_tags", {"ResourceArn": f"{JOBS}/prefix-1"}, "ListTags", f"{JOBS}/prefix-1"),
    ],
)
def test_requests_need_their_job(
    cloud: Any, make_role: MakeRole, operation: str, request_: dict[str, Any], action: str, resource: str
) -> None:
    """A statement on jobs of a prefix, in lower case, allows requests for them; ListTrainingJobs has no resource."""
    # GIVEN
    right = make_role(allow(f"sagemaker:{action}", on=f"{JOBS}/prefix-*" if resource else "*"))
    wrong = make_role(allow(f"sagemaker:{action}", on=f"{JOBS}/Prefix-*"))

    # WHEN, THEN
    assert refusal(cloud, right, operation, request_) == ""
    on = f" on resource: {resource}" if resource else ""
    expected = f"is not authorized to perform: sagemaker:{action}{on} because no identity-based policy allows"
    assert expected in refusal(cloud, wrong, operation, request_)


@pytest.mark.usefixtures("jobs")
def test_creating_a_job_passes_its_role_and_tags_it(cloud: Any, make_role: MakeRole) -> None:
    """CreateTrainingJob needs iam:PassRole to SageMaker, and sagemaker:AddTags if the job has tags."""
    # GIVEN
    create = allow("sagemaker:CreateTrainingJob", on=f"{JOBS}/passes-*")
    passing = {
        service: allow("iam:PassRole", on=ROLE, StringEquals={"iam:PassedToService": f"{service}.amazonaws.com"})
        for service in ("sagemaker", "ec2")
    }
    tag = allow("sagemaker:AddTags", on=f"{JOBS}/passes-*")
    plain = job_request("passes-1", "true")
    tagged = {**plain, "Tags": [{"Key": "run", "Value": "1"}]}

    def missing(request: dict[str, Any], *statements: dict[str, Any]) -> str:
        return refusal(cloud, make_role(*statements), "create_training_job", request)

    # WHEN, THEN
    assert f"sagemaker:CreateTrainingJob on resource: {JOBS}/passes-1 " in missing(plain, passing["sagemaker"])
    assert f"iam:PassRole on resource: {ROLE} " in missing(plain, create)
    assert f"iam:PassRole on resource: {ROLE} " in missing(plain, create, passing["ec2"])
    assert f"sagemaker:AddTags on resource: {JOBS}/passes-1 " in missing(tagged, create, passing["sagemaker"])
    assert missing(tagged, create, passing["sagemaker"], tag) == ""
    assert missing({**plain, "TrainingJobName": "passes-2"}, create, passing["sagemaker"]) == ""


@pytest.mark.usefixtures("jobs")
@pytest.mark.parametrize(
    ("condition", "members", "allowed"),
    [
        ({"ForAllValues:StringEquals": {"sagemaker:InstanceTypes": ["ml.g5.xlarge"]}}, {}, True),
        ({"ForAllValues:StringEquals": {"sagemaker:InstanceTypes": ["ml.g5.2xlarge"]}}, {}, False),
        ({"Null": {"sagemaker:InstanceTypes": "false"}}, {}, True),
        ({"NumericLessThanEquals": {"sagemaker:MaxRuntimeInSeconds": "3600"}}, {}, True),
        ({"NumericLessThanEquals": {"sagemaker:MaxRuntimeInSeconds": "3599"}}, {}, False),
        ({"Null": {"sagemaker:KeepAlivePeriod": "true"}}, {}, True),
        ({"Null": {"sagemaker:KeepAlivePeriod": "true"}}, {"ResourceConfig": {"KeepAlivePeriodInSeconds": 60}}, False),
        ({"BoolIfExists": {"sagemaker:EnableRemoteDebug": "false"}}, {}, True),
        (
            {"BoolIfExists": {"sagemaker:EnableRemoteDebug": "false"}},
            {"RemoteDebugConfig": {"EnableRemoteDebug": True}},
            False,
        ),
        ({"Bool": {"sagemaker:InterContainerTrafficEncryption": "true"}}, {}, False),
        (
            {"Bool": {"sagemaker:InterContainerTrafficEncryption": "true"}},
            {"EnableInterContainerTrafficEncryption": True},
            True,
        ),
        ({"Null": {"sagemaker:VpcSubnets": "false"}}, {}, False),
        (
            {
                "ForAllValues:StringEquals": {
                    "sagemaker:VpcSubnets": ["subnet-1"],
                    "sagemaker:VpcSecurityGroupIds": ["sg-1"],
                }
            },
            {"VpcConfig": {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}},
            False,
        ),
        (
            {
                "ForAllValues:StringEquals": {
                    "sagemaker:VpcSubnets": ["subnet-1", "subnet-2"],
                    "sagemaker:VpcSecurityGroupIds": ["sg-1"],
                }
            },
            {"VpcConfig": {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}},
            True,
        ),
    ],
)
def test_conditions_limit_jobs(
    cloud: Any, make_role: MakeRole, condition: dict[str, Any], members: dict[str, Any], allowed: bool
) -> None:
    """The condition keys of CreateTrainingJob have the values of the request, and are absent with them."""
    # GIVEN
    request = job_request(f"limited-{uuid.uuid4()}", "true")
    for name, value in members.items():
        request[name] = {**request[name], **value} if name in request else value
    role = make_role(allow("sagemaker:CreateTrainingJob", **condition), allow("iam:PassRole"))

    # WHEN
    found = refusal(cloud, role, "create_training_job", request)

    # THEN
    assert (found == "") is allowed, found


@pytest.mark.parametrize(
    ("service", "condition", "trusts"),
    [
        ("sagemaker.amazonaws.com", {}, True),
        ("ec2.amazonaws.com", {}, False),
        ("sagemaker.amazonaws.com", {"StringEquals": {"aws:SourceAccount": ACCOUNT}}, True),
        ("sagemaker.amazonaws.com", {"StringEquals": {"aws:SourceAccount": "111111111111"}}, False),
        ("sagemaker.amazonaws.com", {"ArnLike": {"aws:SourceArn": f"{JOBS}/trusted-*"}}, True),
        ("sagemaker.amazonaws.com", {"ArnLike": {"aws:SourceArn": f"{JOBS}/other-*"}}, False),
    ],
)
def test_roles_of_jobs_must_trust_sagemaker(
    cloud: Any, make_role: MakeRole, service: str, condition: dict[str, Any], trusts: bool
) -> None:
    """A job whose role SageMaker cannot assume on its behalf is refused."""
    # GIVEN
    role = make_role(service=service, **condition)
    request = job_request(f"trusted-{uuid.uuid4()}", "true", RoleArn=role)
    create = cloud.client("sagemaker").create_training_job

    # WHEN, THEN
    if trusts:
        create(**request)
    else:
        with pytest.raises(ClientError, match=f"ValidationException.*Could not assume role {role}. Please ensure"):
            create(**request)


@pytest.mark.skipif(bool(opt_ml.unavailable_reason()), reason="this machine permits no mount namespaces")
def test_containers_act_as_the_role_of_their_job(cloud: Any, make_role: MakeRole, jobs: Any) -> None:
    """What a container asks of AWS is evaluated against its job's role, and recorded."""
    # GIVEN
    pull = [allow("ecr:GetAuthorizationToken"), allow(*PULL, on=REPOSITORY)]
    role = make_role(allow("dynamodb:ListTables"), *pull, service="sagemaker.amazonaws.com")
    code = (
        "import boto3; client = lambda name: boto3.client(name, region_name='eu-west-1'); "
        "client('dynamodb').list_tables(); client('cloudformation').describe_stacks()"
    )

    # WHEN
    ended = jobs.create(f'python -c "{code}" 2>&1 | tail -1 > /opt/ml/output/failure; exit 1', RoleArn=role).ended()

    # THEN
    name = role.rpartition("/")[2]
    who = f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/SageMaker"
    assert f"User: {who} is not authorized to perform: cloudformation:DescribeStacks" in ended["FailureReason"]
    recorded = cloud.permissions()
    (denied,) = [each for each in recorded["denials"] if each.startswith(f"{name}: ")]
    assert denied.startswith(f"{name}: cloudformation.DescribeStacks: because no identity-based policy allows")
    used = {
        action: who
        for each in recorded["statements"]
        if each["policy"] == f"{name}/own"
        for action, who in each["actions"].items()
    }
    assert used["dynamodb:ListTables"] == [f"{name}: dynamodb.ListTables"]
    assert [action for action, who in used.items() if not who] == []


@pytest.mark.parametrize("missing", ["ecr:GetAuthorizationToken", *PULL])
def test_roles_of_jobs_pull_the_image(make_role: MakeRole, jobs: Any, missing: str) -> None:
    """A role that may not pull the image fails its job."""
    # GIVEN
    statements = [
        allow(*(action for action in ["ecr:GetAuthorizationToken"] if action != missing), "sts:Nothing"),
        allow(*(action for action in PULL if action != missing), on=REPOSITORY),
    ]

    # WHEN
    ended = jobs.create("true", RoleArn=make_role(*statements, service="sagemaker.amazonaws.com")).ended()

    # THEN
    assert ended["FailureReason"].startswith("ClientError: Cannot pull algorithm container.")


@pytest.fixture
def network(cloud: Any) -> dict[str, Any]:
    """A subnet of the default VPC, and its security group."""
    ec2 = cloud.client("ec2")
    subnet = ec2.describe_subnets()["Subnets"][0]
    groups = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [subnet["VpcId"]]}])["SecurityGroups"]
    return {"Subnets": [subnet["SubnetId"]], "SecurityGroupIds": [groups[0]["GroupId"]]}


@pytest.mark.parametrize("missing", NETWORK)
def test_roles_of_jobs_in_a_vpc_make_interfaces(
    make_role: MakeRole, jobs: Any, network: dict[str, Any], missing: str
) -> None:
    """A role that may not make the network interfaces of its job fails it."""
    # GIVEN
    statements = [allow(*(action for action in NETWORK if action != missing)), allow("ecr:*")]
    role = make_role(*statements, service="sagemaker.amazonaws.com")

    # WHEN
    ended = jobs.create("true", RoleArn=role, VpcConfig=network).ended()

    # THEN
    assert ended["FailureReason"] == f"ClientError: The role {role} is not authorized to perform: {missing}"


@pytest.mark.skipif(bool(opt_ml.unavailable_reason()), reason="this machine permits no mount namespaces")
def test_jobs_in_a_vpc_use_its_endpoints(cloud: Any, faults: Any, jobs: Any) -> None:
    """Requests of a job in a VPC go through the VPC's endpoints, whose policies must allow them, too."""
    # GIVEN a VPC with an endpoint of DynamoDB that allows nothing but a look at tables
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="jobs", Description="jobs", VpcId=vpc)["GroupId"]
    ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName="com.amazonaws.eu-west-1.dynamodb",
        PolicyDocument=document({**allow("dynamodb:ListTables"), "Principal": "*"}),
    )
    code = (
        "import boto3; client = boto3.client('dynamodb', region_name='eu-west-1'); client.list_tables(); "
        "client.describe_table(TableName='any')"
    )
    faults.set_faults(Faults())

    # WHEN
    job = jobs.create(
        f'echo ready; python -c "{code}"; sleep 600', VpcConfig={"Subnets": [subnet], "SecurityGroupIds": [group]}
    )
    (host,) = job.running()

    # THEN
    printed = eventually(lambda: log(host), lambda text: "Error" in text.splitlines()[-1])
    assert "dynamodb:DescribeTable" in printed.splitlines()[-1]
    assert "because no VPC endpoint policy allows the dynamodb:DescribeTable action" in printed
