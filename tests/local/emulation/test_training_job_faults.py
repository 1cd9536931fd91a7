"""Faults of training jobs: capacity, quotas, images, interruptions, and hosts that are lost."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from horovod_local import ApiFault, Faults, LocalCloud, LocalCloudError, Refusal
from horovod_local.instances import opt_ml
from support.local_cloud.training_jobs import log, processes_of, statuses
from support.waiting import eventually

pytestmark = pytest.mark.skipif(bool(opt_ml.unavailable_reason()), reason="this machine permits no mount namespaces")

INTERNAL_ERROR = "InternalServerError: We encountered an internal error. Please try again."


def test_jobs_wait_for_capacity(faults: LocalCloud, jobs: Any) -> None:
    """A job for which there is no capacity waits, and begins when there is some; others do not wait."""
    # GIVEN
    faults.set_faults(Faults(refused=(Refusal(instance_type="ml.g5.xlarge", market="spot"),)))

    # WHEN
    waiting, other = jobs.create(spot=True), jobs.create()
    other.running()

    # THEN
    seen = waiting.waiting_in("Pending")
    assert (seen["TrainingJobStatus"], "TrainingStartTime" in seen) == ("InProgress", False)

    # WHEN
    faults.set_faults(Faults())

    # THEN
    waiting.running()
    assert statuses(waiting.describe()) == ["Starting", "Pending", "Pending", "Downloading", "Training"]


def test_jobs_without_capacity_fail(faults: LocalCloud, jobs: Any) -> None:
    """An On-Demand job does not wait for ever: it fails in SageMaker's words, and nothing was billed."""
    # GIVEN
    faults.set_faults(Faults(refused=(Refusal(),), job_capacity_seconds=0.5))

    # WHEN
    ended = jobs.create().ended()

    # THEN
    assert ended["FailureReason"] == (
        "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance "
        "type."
    )
    assert statuses(ended) == ["Starting", "Pending", "Failed"]
    assert {"TrainingStartTime", "BillableTimeInSeconds"} & ended.keys() == set()


@pytest.mark.parametrize(("spot", "usage"), [(False, "training job usage"), (True, "spot training job usage")])
def test_quotas_refuse_jobs(faults: LocalCloud, jobs: Any, spot: bool, usage: str) -> None:
    """A job beyond the quota of its type and market is refused when it is created."""
    # GIVEN
    faults.set_faults(Faults(refused=(Refusal(instance_type="ml.g5.xlarge", why="quota"),)))

    # WHEN
    with pytest.raises(ClientError) as refused:
        jobs.create(hosts=2, spot=spot)

    # THEN
    error = refused.value.response["Error"]
    assert error["Code"] == "ResourceLimitExceeded"
    assert error["Message"].startswith(
        f"The account-level service limit 'ml.g5.xlarge for {usage}' is 0 Instances, with current utilization of 0 "
        "Instances and a request delta of 2 Instances."
    )


def test_requests_are_throttled(faults: LocalCloud, jobs: Any) -> None:
    """CreateTrainingJob may be throttled."""
    faults.set_faults(Faults(refused=(Refusal(why="throttling"),)))
    with pytest.raises(ClientError, match=r"ThrottlingException.*Rate exceeded"):
        jobs.create()


@pytest.mark.parametrize(
    "image", ["", "123456789012.dkr.ecr.us-east-1.amazonaws.com/horovod:1", "docker.io/library/python:3.11"]
)
def test_images_that_cannot_be_pulled_fail_jobs(faults: LocalCloud, jobs: Any, image: str) -> None:
    """A job whose image cannot be pulled, or is not in the Region's registry, fails before anything runs."""
    # GIVEN
    request = {"AlgorithmSpecification": {"TrainingImage": image, "TrainingInputMode": "File"}} if image else {}
    if not image:
        faults.set_faults(Faults(images_pull=False))

    # WHEN
    job = jobs.create(**request)
    ended = job.ended()

    # THEN
    assert ended["FailureReason"].startswith("ClientError: Cannot pull algorithm container. ")
    assert statuses(ended) == ["Starting", "Pending", "Downloading", "Failed"]
    assert not job.file("algo-1", "").exists()


def test_agents_that_do_not_start_fail_jobs(faults: LocalCloud, jobs: Any) -> None:
    """SageMaker calls a job whose hosts do not start an internal error of its own."""
    faults.set_faults(Faults(agents_start=False))
    assert jobs.create().ended()["FailureReason"] == INTERNAL_ERROR


def test_lost_hosts_fail_jobs(cloud: Any, jobs: Any) -> None:
    """A host that is lost dies at once; the others are told to stop, and the job fails."""
    # GIVEN
    job = jobs.create("trap 'echo bye; exit' TERM; echo ready; sleep 600 & wait", hosts=2)
    first, second = job.running(2)

    # WHEN
    cloud.lose_training_host(job.name, "algo-1")

    # THEN
    ended = job.ended()
    assert ended["FailureReason"] == INTERNAL_ERROR
    assert (log(first), log(second)) == ("ready\n", "ready\nbye\n")
    assert processes_of(job) == []


def test_retries_start_the_same_job_again(cloud: Any, jobs: Any) -> None:
    """`RetryStrategy` starts a job again after an internal error, as often as it says, with empty folders."""
    # GIVEN
    job = jobs.create(
        "ls /opt/ml/model; touch /opt/ml/model/m; echo ready; sleep 600", RetryStrategy={"MaximumRetryAttempts": 1}
    )
    job.running()

    # WHEN
    cloud.lose_training_host(job.name, "algo-1")

    # THEN
    (host,) = job.running(start=2)
    assert log(host) == "ready\n"
    assert statuses(job.describe())[3:] == ["Training", "Starting", "Pending", "Downloading", "Training"]

    # WHEN
    cloud.lose_training_host(job.name, "algo-1")

    # THEN
    assert job.ended()["FailureReason"] == INTERNAL_ERROR


def test_failures_of_the_algorithm_are_not_retried(jobs: Any) -> None:
    """API Reference, `RetryStrategy`: "when the job fails due to an InternalServerError"."""
    ended = jobs.create("exit 1", RetryStrategy={"MaximumRetryAttempts": 3}).ended()
    assert (ended["FailureReason"], statuses(ended).count("Training")) == ("AlgorithmError: , exit code: 1", 1)


def test_interrupted_jobs_start_again(cloud: Any, jobs: Any) -> None:
    """A Spot interruption kills all hosts; the same job goes on with new ones, whose folders are empty."""
    # GIVEN
    job = jobs.create(
        "ls /opt/ml/model; touch /opt/ml/model/m; trap 'echo bye' TERM; echo ready; sleep 600 & wait",
        hosts=2,
        spot=True,
    )
    before = job.running(2)

    # WHEN
    cloud.interrupt_training_job(job.name)

    # THEN
    after = job.running(2, start=2)
    assert [log(host) for host in [*before, *after]] == ["ready\n"] * 4
    assert {host.pid for host in before} & {host.pid for host in after} == set()
    described = job.describe()
    assert statuses(described)[3:] == ["Training", "Interrupted", "Starting", "Pending", "Downloading", "Training"]
    assert described["TrainingStartTime"] == described["SecondaryStatusTransitions"][2]["StartTime"]


def test_interrupted_jobs_wait_for_capacity(faults: LocalCloud, jobs: Any) -> None:
    """A job that was interrupted waits for capacity again, and can be stopped meanwhile."""
    # GIVEN
    job = jobs.create(spot=True)
    job.running()
    faults.set_faults(Faults(refused=(Refusal(market="spot"),)))

    # WHEN
    faults.interrupt_training_job(job.name)

    # THEN
    waiting = eventually(job.describe, lambda seen: statuses(seen)[-2:] == ["Starting", "Pending"])
    assert statuses(waiting)[-3:] == ["Interrupted", "Starting", "Pending"]

    # WHEN
    job.stop()

    # THEN
    ended = job.ended()
    assert ended["TrainingJobStatus"] == "Stopped"
    assert ended["BillableTimeInSeconds"] >= 1


def test_what_cannot_be_interrupted_or_lost(faults: LocalCloud, jobs: Any) -> None:
    """Only a Spot job with instances can be interrupted, and only a host that runs can be lost."""
    # GIVEN
    job = jobs.create()
    job.running()
    faults.set_faults(Faults(job_start_seconds=600))
    waiting = jobs.create(spot=True)
    waiting.waiting_in("Pending")

    # WHEN, THEN
    with pytest.raises(
        LocalCloudError, match=f"'job' must be managed Spot training, got {job.name}, which is On-Demand"
    ):
        faults.interrupt_training_job(job.name)
    with pytest.raises(LocalCloudError, match=f"'job' must have instances to interrupt, got {waiting.name}"):
        faults.interrupt_training_job(waiting.name)
    with pytest.raises(LocalCloudError, match="no training job there-is-none"):
        faults.interrupt_training_job("there-is-none")
    with pytest.raises(LocalCloudError, match=f"no host algo-2 of {job.name}"):
        faults.lose_training_host(job.name, "algo-2")


@pytest.mark.parametrize("caller", ["node", "algo-1-{job}"])
def test_requests_of_hosts_can_fail(faults: LocalCloud, jobs: Any, caller: str) -> None:
    """An API fault of nodes is one of a job's hosts, too, and a single host can be named."""
    # GIVEN
    name = f"asks-{caller[:4]}"
    fault = ApiFault(service="dynamodb", caller=caller.format(job=name), error="InternalFailure", status=500)
    faults.set_faults(Faults(failing=(fault,)))
    ask = "import boto3; boto3.client('dynamodb', region_name='eu-west-1').list_tables()"

    # WHEN
    ended = jobs.create(
        f'AWS_MAX_ATTEMPTS=1 python -c "{ask}" 2>&1 | tail -1 > /opt/ml/output/failure; exit 1', name=name
    ).ended()

    # THEN
    assert "InternalFailure" in ended["FailureReason"]
