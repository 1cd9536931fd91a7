"""Requests about training jobs: what SageMaker refuses, how jobs are listed and tagged, and Step Functions' names."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from horovod_local import Faults, LocalCloud
from support.local_cloud.emulated_resources import ROLE
from support.local_cloud.training_jobs import IMAGE, job_request

SDK = "arn:aws:states:::aws-sdk:sagemaker:"


@pytest.fixture
def waiting(faults: LocalCloud) -> LocalCloud:
    """The cloud, in which new jobs wait for their instances."""
    faults.set_faults(Faults(job_start_seconds=600))
    return faults


@pytest.fixture
def unchecked(cloud: Any) -> Any:
    """A client that sends what it is given, so that the service itself refuses it."""
    return boto3.client(
        "sagemaker",
        endpoint_url=cloud.endpoint,
        region_name="eu-west-1",
        aws_access_key_id=cloud.access_key,
        aws_secret_access_key="local",
        config=Config(parameter_validation=False, retries={"total_max_attempts": 1}),
    )


def changed(request: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    """Change members of a request; their names have `__` between their parts, and None removes them."""
    result = copy.deepcopy(dict(request))
    for path, value in members.items():
        *structures, name = path.split("__")
        inner = result
        for structure in structures:
            inner = inner.setdefault(structure, {})
        inner[name] = value
        if value is None:
            del inner[name]
    return result


def refusal(client: Any, request: Mapping[str, Any]) -> tuple[str, str]:
    """Create a job, which is refused; give the error's code and message."""
    with pytest.raises(ClientError) as refused:
        client.create_training_job(**request)
    error: Any = refused.value.response["Error"]
    return error["Code"], error["Message"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"TrainingJobName": "a_b"},
            "Value 'a_b' at 'trainingJobName' failed to satisfy constraint: Member must satisfy",
        ),
        ({"TrainingJobName": "a" * 64}, "Member must have length less than or equal to 63"),
        ({"TrainingJobName": "a-"}, "Member must satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"),
        ({"RoleArn": "role"}, "at 'roleArn' failed to satisfy constraint"),
        (
            {"OutputDataConfig": None},
            "Value null at 'outputDataConfig' failed to satisfy constraint: Member must not be",
        ),
        (
            {"ResourceConfig__InstanceType": "g5.xlarge"},
            "at 'resourceConfig.instanceType' failed to satisfy constraint",
        ),
        ({"ResourceConfig__InstanceType": "ml.g5.huge"}, "Member must satisfy enum value set: [ml.m4.xlarge, "),
        ({"ResourceConfig__InstanceCount": "2"}, "Member must be of type integer"),
        ({"StoppingCondition__MaxRuntimeInSeconds": 0}, "Member must have value greater than or equal to 1"),
        ({"AlgorithmSpecification__TrainingImage": "i" * 256}, "Member must have length less than or equal to 255"),
        ({"Environment": {"A": "v" * 513}}, "at 'environment.A.value' failed to satisfy constraint"),
        ({"Environment": {"1A": "v"}}, "at 'environment.1A.key' failed to satisfy constraint"),
        (
            {"Environment": {f"A{number}": "" for number in range(101)}},
            "Member must have length less than or equal to 100",
        ),
        ({"HyperParameters": {"a": "v" * 2501}}, "Member must have length less than or equal to 2500"),
        (
            {"HyperParameters": {f"a{number}": "" for number in range(101)}},
            "Member must have length less than or equal",
        ),
        ({"VpcConfig": {"Subnets": [f"s{n}" for n in range(17)], "SecurityGroupIds": ["g"]}}, "at 'vpcConfig.subnets'"),
        ({"RetryStrategy": {"MaximumRetryAttempts": 31}}, "Member must have value less than or equal to 30"),
        ({"Tags": [{"Key": "a#b", "Value": ""}]}, "at 'tags.1.member.key' failed to satisfy constraint"),
    ],
)
def test_constraints_of_the_model_hold(unchecked: Any, members: dict[str, Any], message: str) -> None:
    """What the API's model does not permit is refused, in SageMaker's words."""
    # WHEN
    code, found = refusal(unchecked, changed(job_request("refused"), **members))

    # THEN
    assert code == "ValidationException"
    assert "detected: Value " in found
    assert message in found


def test_all_broken_constraints_are_named(unchecked: Any) -> None:
    """A request that breaks several constraints hears of all of them."""
    code, message = refusal(unchecked, changed(job_request("a_b"), StoppingCondition__MaxRuntimeInSeconds=0))
    assert code == "ValidationException"
    assert message.startswith("2 validation errors detected: Value 'a_b' at 'trainingJobName' failed to satisfy")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"StoppingCondition__MaxWaitTimeInSeconds": 7200},
            "Invalid MaxWaitTimeInSeconds. It is only supported when EnableManagedSpotTraining is set to true",
        ),
        (
            {"EnableManagedSpotTraining": True},
            "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds",
        ),
        (
            {"EnableManagedSpotTraining": True, "StoppingCondition__MaxWaitTimeInSeconds": 3599},
            "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds",
        ),
        (
            {"StoppingCondition__MaxRuntimeInSeconds": 2_419_201},
            "Invalid MaxRuntimeInSeconds. It must be at most 2419200",
        ),
        ({"StoppingCondition": None}, "StoppingCondition.MaxRuntimeInSeconds is required for a training job"),
        ({"ResourceConfig__InstanceCount": 0}, "ResourceConfig.InstanceCount must be at least 1"),
        (
            {"ResourceConfig__InstanceType": "ml.p3.2xlarge", "ResourceConfig__VolumeSizeInGB": None},
            "ResourceConfig.VolumeSizeInGB is required for ml.p3.2xlarge, which has no local storage",
        ),
        (
            {"ResourceConfig__VolumeKmsKeyId": "key"},
            "ResourceConfig.VolumeKmsKeyId is not supported for ml.g5.xlarge, which has local storage",
        ),
        ({"Tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}, "Duplicate tag keys found"),
        ({"Tags": [{"Key": "aws:a", "Value": "1"}]}, "Tag keys must not begin with aws:, which is reserved"),
        (
            {"VpcConfig": {"Subnets": ["subnet-none"], "SecurityGroupIds": ["sg-none"]}},
            "The subnet ID 'subnet-none' does not exist",
        ),
    ],
)
def test_rules_beyond_the_model_hold(cloud: Any, members: dict[str, Any], message: str) -> None:
    """What SageMaker's documentation does not permit is refused."""
    request = changed(job_request("refused"), **members)
    assert refusal(cloud.client("sagemaker"), request) == ("ValidationException", message)


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"EnableNetworkIsolation": True}, "EnableNetworkIsolation"),
        ({"CheckpointConfig": {"S3Uri": "s3://b/c"}}, "CheckpointConfig"),
        ({"InputDataConfig": [{"ChannelName": "c", "DataSource": {}}]}, "InputDataConfig"),
        ({"RemoteDebugConfig": {"EnableRemoteDebug": True}}, "RemoteDebugConfig"),
        ({"ProfilerConfig": {"S3OutputPath": "s3://b/p"}}, "ProfilerConfig"),
        ({"DebugHookConfig": {"S3OutputPath": "s3://b/d"}}, "DebugHookConfig"),
        ({"AlgorithmSpecification__ContainerEntrypoint": ["sh"]}, "AlgorithmSpecification.ContainerEntrypoint"),
        (
            {"ResourceConfig__InstancePreferences": [{"InstanceType": "ml.g5.xlarge"}]},
            "ResourceConfig.InstancePreferences",
        ),
        ({"StoppingCondition__MaxPendingTimeInSeconds": 1800}, "StoppingCondition.MaxPendingTimeInSeconds"),
        ({"OutputDataConfig__CompressionType": "NONE"}, "OutputDataConfig.CompressionType"),
    ],
)
def test_what_is_not_acted_is_refused(cloud: Any, members: dict[str, Any], place: str) -> None:
    """No member of a request is dropped in silence."""
    code, message = refusal(cloud.client("sagemaker"), changed(job_request("refused"), **members))
    assert (code, message) == ("ValidationException", f"the local cloud does not act {place} of a training job")


@pytest.mark.usefixtures("waiting")
def test_members_that_ask_for_nothing_are_accepted(jobs: Any) -> None:
    """A member whose value is what happens anyway is accepted, and described again."""
    # GIVEN
    off = {
        "EnableNetworkIsolation": False,
        "RemoteDebugConfig": {"EnableRemoteDebug": False},
        "ProfilerConfig": {"DisableProfiler": True},
        "OutputDataConfig": {"S3OutputPath": "s3://b/o", "CompressionType": "GZIP"},
    }

    # WHEN
    job = jobs.create(**off)

    # THEN
    assert {name: job.describe()[name] for name in off} == off


@pytest.mark.parametrize(
    ("members", "quota"),
    [
        (
            {"ResourceConfig__KeepAlivePeriodInSeconds": 60},
            "'ml.g5.xlarge for training warm pool usage' is 0 Instances",
        ),
        ({"ResourceConfig__InstanceCount": 21}, "'Number of instances for a training job' is 20 Instances"),
        (
            {"StoppingCondition__MaxRuntimeInSeconds": 432_001},
            "'Longest run time for a training job' is 432000 Seconds, with current utilization of 0 Seconds",
        ),
    ],
)
def test_default_quotas_hold(cloud: Any, members: dict[str, Any], quota: str) -> None:
    """What an account may not do unless its quotas are raised is refused."""
    code, message = refusal(cloud.client("sagemaker"), changed(job_request("refused"), **members))
    assert code == "ResourceLimitExceeded"
    assert message.startswith(f"The account-level service limit {quota}")


def test_names_are_unique(waiting: Any, jobs: Any) -> None:
    """A name is taken for ever, also by a job that has ended; ARNs are in lower case, so case makes no other name."""
    # GIVEN
    job = jobs.create(name="Taken-Name")
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:training-job/taken-name"
    assert job.describe()["TrainingJobArn"] == arn
    job.stop()
    job.ended()

    # WHEN, THEN
    for name in ("Taken-Name", "taken-name"):
        code, message = refusal(waiting.client("sagemaker"), job_request(name))
        assert code == "ResourceInUse"
        assert message.endswith(f"a training job with this name already exists ({arn})")


@pytest.mark.parametrize("operation", ["describe_training_job", "stop_training_job"])
def test_unknown_jobs_are_not_found(cloud: Any, operation: str) -> None:
    """A job that does not exist is no ResourceNotFound, but a ValidationException."""
    with pytest.raises(ClientError) as refused:
        getattr(cloud.client("sagemaker"), operation)(TrainingJobName="there-is-none")
    error = refused.value.response["Error"]
    assert (error["Code"], error["Message"]) == ("ValidationException", "Requested resource not found.")


def test_training_jobs_are_filtered_by_page(waiting: Any, jobs: Any) -> None:
    """
    A page is taken before it is filtered, so it may be empty although a later one has what is asked for.

    API Reference, ListTrainingJobs, says so of StatusEquals; boto/boto3 issue 2838 of NameContains.
    """
    # GIVEN two jobs, of which the older one is stopped
    api = waiting.client("sagemaker")
    older, _ = jobs.create(name="paged-older"), jobs.create(name="paged-newer")
    older.stop()
    older.ended()

    def listed(**request: Any) -> tuple[list[str], bool]:
        answer = api.list_training_jobs(SortBy="CreationTime", SortOrder="Descending", **request)
        return [job["TrainingJobName"] for job in answer["TrainingJobSummaries"]], "NextToken" in answer

    # WHEN, THEN
    assert listed(MaxResults=2) == (["paged-newer", "paged-older"], listed(MaxResults=2)[1])
    assert listed(MaxResults=1, NameContains="older") == ([], True)
    assert listed(MaxResults=1, StatusEquals="Stopped") == ([], True)
    assert listed(MaxResults=2, StatusEquals="Stopped", NameContains="paged")[0] == ["paged-older"]
    assert listed(MaxResults=2, NameContains="Paged")[0] == []
    later = older.describe()["CreationTime"] + timedelta(hours=1)
    assert listed(MaxResults=2, CreationTimeBefore=later)[0] == ["paged-newer", "paged-older"]
    assert listed(MaxResults=2, CreationTimeAfter=later)[0] == []

    # AND the tokens lead to all of them
    pages = api.get_paginator("list_training_jobs").paginate(
        NameContains="paged", SortBy="Name", PaginationConfig={"PageSize": 1}
    )
    assert [job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]] == [
        "paged-newer",
        "paged-older",
    ]

    # AND a summary says how the job is
    (summary,) = api.list_training_jobs(NameContains="paged-newer", MaxResults=100)["TrainingJobSummaries"]
    assert (summary["TrainingJobStatus"], summary["SecondaryStatus"]) == ("InProgress", "Pending")
    assert "TrainingEndTime" not in summary
    with pytest.raises(ClientError, match="ValidationException"):
        api.list_training_jobs(NextToken="mine")


def test_a_page_has_ten_jobs(waiting: Any, jobs: Any) -> None:
    """Without MaxResults a page has 10 jobs."""
    # GIVEN, WHEN
    for number in range(11):
        jobs.create(name=f"many-{number}")
    answer = waiting.client("sagemaker").list_training_jobs()

    # THEN
    assert len(answer["TrainingJobSummaries"]) == 10
    assert "NextToken" in answer


def test_tags_of_training_jobs_are_unique(waiting: Any, jobs: Any) -> None:
    """AddTags "adds or overwrites"; a job that does not exist has no tags."""
    # GIVEN
    api = waiting.client("sagemaker")
    job = jobs.create(name="Tagged", Tags=[{"Key": "run", "Value": "1"}, {"Key": "kept", "Value": "yes"}])
    arn = job.describe()["TrainingJobArn"]

    # WHEN
    api.add_tags(ResourceArn=arn, Tags=[{"Key": "run", "Value": "2"}])

    # THEN
    tags = [{"Key": "run", "Value": "2"}, {"Key": "kept", "Value": "yes"}]
    assert api.list_tags(ResourceArn=arn)["Tags"] == tags
    assert "Tags" not in job.describe()

    # WHEN, THEN
    with pytest.raises(ClientError, match="Requested resource not found"):
        api.add_tags(ResourceArn=f"{arn}-none", Tags=tags)
    with pytest.raises(ClientError, match="at most 50 tags"):
        api.add_tags(ResourceArn=arn, Tags=[{"Key": f"t{number}", "Value": ""} for number in range(49)])


def test_rules_for_events_of_sagemaker_are_refused(cloud: Any, stacks: Any) -> None:
    """No rule waits for events that never come, whether a request or a template makes it."""
    # GIVEN
    pattern = {"source": ["aws.sagemaker"], "detail-type": ["SageMaker Training Job State Change"]}
    rule = {"Type": "AWS::Events::Rule", "Properties": {"EventPattern": pattern}}

    # WHEN, THEN
    with pytest.raises(ClientError, match=r"sends no events of aws\.sagemaker"):
        cloud.client("events").put_rule(Name="of-jobs", EventPattern=json.dumps(pattern))
    assert "sends no events of aws.sagemaker" in stacks.create({"Resources": {"Rule": rule}})["StackStatusReason"]


@pytest.mark.usefixtures("waiting")
def test_state_machines_create_and_describe_jobs(machines: Any) -> None:
    """Step Functions takes the members of the API, and gives them back, times as texts."""
    # GIVEN
    arguments = job_request("by-a-machine")
    arguments["ResourceConfig"]["InstanceCount"] = "{% $number('2') %}"
    arguments["Environment"]["GPUS"] = "{% $string(4) %}"
    named = {"TrainingJobName": arguments["TrainingJobName"]}
    states = {
        "Create": {"Type": "Task", "Resource": f"{SDK}createTrainingJob", "Arguments": arguments, "Next": "Describe"},
        "Describe": {
            "Type": "Task",
            "Resource": f"{SDK}describeTrainingJob",
            "Arguments": named,
            "Assign": {"job": "{% $states.result %}"},
            "Next": "List",
        },
        "List": {
            "Type": "Task",
            "Resource": f"{SDK}listTrainingJobs",
            "Arguments": {"NameContains": "by-a-machine", "MaxResults": 100, "SortOrder": "Descending"},
            "Assign": {"listed": "{% $states.result.TrainingJobSummaries %}"},
            "Next": "Stop",
        },
        "Stop": {
            "Type": "Task",
            "Resource": f"{SDK}stopTrainingJob",
            "Arguments": named,
            "Output": {"job": "{% $job %}", "listed": "{% $listed %}"},
            "End": True,
        },
    }

    # WHEN
    output = machines.output({"StartAt": "Create", "States": states})

    # THEN
    job = output["job"]
    assert job["TrainingJobStatus"] == "InProgress"
    assert job["ResourceConfig"] == {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}
    assert job["Environment"]["GPUS"] == "4"
    assert job["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    assert job["CreationTime"].endswith("Z")
    assert [each["TrainingJobName"] for each in output["listed"]] == ["by-a-machine"]
    assert "TrainingStartTime" not in job


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize(
    ("action", "members", "error"),
    [
        ("createTrainingJob", {}, "SageMaker.ResourceInUseException"),
        (
            "createTrainingJob",
            {"TrainingJobName": "of-machines", "ResourceConfig__InstanceCount": 21},
            "SageMaker.ResourceLimitExceededException",
        ),
        ("createTrainingJob", {"TrainingJobName": "a_b"}, "SageMaker.SageMakerException"),
        ("createTrainingJob", {"TrainingJobName": "a", "RoleArn": f"{ROLE}-none"}, "SageMaker.SageMakerException"),
        ("describeTrainingJob", {"TrainingJobName": "there-is-none"}, "SageMaker.SageMakerException"),
        ("stopTrainingJob", {"TrainingJobName": "there-is-none"}, "SageMaker.SageMakerException"),
    ],
)
def test_errors_of_jobs_have_the_names_of_step_functions(
    machines: Any, jobs: Any, action: str, members: dict[str, Any], error: str
) -> None:
    """Errors that the API's model has are named after it, all others after the service."""
    # GIVEN
    name = jobs.create().name
    given = changed(job_request(name) if action.startswith("create") else {}, **members)

    # WHEN
    ended = machines.run({"Type": "Task", "Resource": SDK + action, "Arguments": given})

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", error)
