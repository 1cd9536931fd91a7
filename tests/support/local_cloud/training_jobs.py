"""Training jobs whose containers run the shell command of a test, in place of the agent."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from horovod_local import LocalCloud, LocalTrainingHost
from horovod_local.instances.processes import processes_with
from support.local_cloud.emulated_resources import ROLE
from support.waiting import eventually

BUCKET = "training-job-output"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/horovod:1"
WAIT = "echo ready; sleep 600"
"""Command of a container that runs until it is stopped."""


def job_request(
    name: str, command: str = WAIT, *, hosts: int = 1, spot: bool = False, **members: Any
) -> dict[str, Any]:
    """
    Write the parameters of CreateTrainingJob.

    Args:
        name: Name of the job.
        command: Shell command of each container.
        hosts: Number of instances.
        spot: Whether the job is managed Spot training.
        members: Further parameters, or others in place of these.
    """
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": hosts, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600, **({"MaxWaitTimeInSeconds": 7200} if spot else {})},
        "Environment": {"TEST_COMMAND": command},
        **({"EnableManagedSpotTraining": True} if spot else {}),
        **members,
    }


class Job:
    """A training job of a test."""

    def __init__(self, cloud: LocalCloud, name: str) -> None:
        self.name = name
        self._cloud = cloud
        self._api = cloud.client("sagemaker")

    def describe(self) -> dict[str, Any]:
        """Describe the job."""
        return dict(self._api.describe_training_job(TrainingJobName=self.name))

    def stop(self) -> None:
        """Ask SageMaker to stop the job."""
        self._api.stop_training_job(TrainingJobName=self.name)

    def hosts(self) -> list[LocalTrainingHost]:
        """List the hosts that the job has now."""
        return [host for host in self._cloud.training_hosts() if host.job == self.name]

    def running(self, count: int = 1, *, start: int = 1) -> list[LocalTrainingHost]:
        """Wait until all *count* containers of a *start* of the job have printed something."""

        def are_ready(hosts: list[LocalTrainingHost]) -> bool:
            return len(hosts) == count and all(host.start == start and log(host) for host in hosts)

        found = eventually(self.hosts, are_ready)
        assert are_ready(found), (found, self.describe())
        return found

    def ended(self) -> dict[str, Any]:
        """Wait until the job has ended, and describe it."""
        return eventually(self.describe, lambda job: job["TrainingJobStatus"] not in ("InProgress", "Stopping"))

    def waiting_in(self, secondary: str) -> dict[str, Any]:
        """Wait until the job is in a secondary status, and describe it."""
        return eventually(self.describe, lambda job: job["SecondaryStatus"] == secondary)

    def file(self, host: str, path: str, *, start: int = 1) -> Path:
        """Locate a file of a host's `/opt/ml`, which outlives the job."""
        return self._cloud.home / "training-jobs" / "eu-west-1" / self.name / str(start) / host / "ml" / path


class Jobs:
    """Makes training jobs, and the bucket of their output."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud
        self._api = cloud.client("sagemaker")
        self.made: list[Job] = []
        s3 = cloud.client("s3")
        if BUCKET not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
            s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})

    def create(self, command: str = WAIT, *, name: str | None = None, **request: Any) -> Job:
        """Create a job; see `job_request`."""
        job = Job(self._cloud, name or f"job-{uuid.uuid4()}")
        self._api.create_training_job(**job_request(job.name, command, **request))
        self.made.append(job)
        return job


def log(host: LocalTrainingHost) -> str:
    """Read what a container has printed."""
    return Path(host.log).read_text(encoding="utf-8")


def statuses(job: dict[str, Any]) -> list[str]:
    """List the secondary statuses through which a job has gone."""
    return [each["Status"] for each in job["SecondaryStatusTransitions"]]


def processes_of(job: Job) -> list[int]:
    """List the processes of a job's containers, in whatever session they are."""
    return list(processes_with("TRAINING_JOB_NAME", job.name))
