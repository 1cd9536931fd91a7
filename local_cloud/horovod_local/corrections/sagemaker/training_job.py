"""
One training job as SageMaker describes it: its request, its statuses, its times.

Sources: SageMaker API Reference, DescribeTrainingJob, `SecondaryStatusTransition` and `TrainingJobSummary`. Statuses,
times and messages are as in jobs that users published: the first transition begins with the job, `TrainingStartTime` is
the beginning of `Downloading`, and the last transition ends when it begins.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

IN_PROGRESS: Final = "InProgress"
STOPPING: Final = "Stopping"
STOPPED: Final = "Stopped"
COMPLETED: Final = "Completed"
FAILED: Final = "Failed"

STARTING: Final = "Starting"
PENDING: Final = "Pending"
DOWNLOADING: Final = "Downloading"
TRAINING: Final = "Training"
INTERRUPTED: Final = "Interrupted"
UPLOADING: Final = "Uploading"
MAX_RUNTIME_EXCEEDED: Final = "MaxRuntimeExceeded"
MAX_WAIT_TIME_EXCEEDED: Final = "MaxWaitTimeExceeded"
"""Secondary statuses; the primary ones are secondary ones, too, but for `IN_PROGRESS`."""

_ENDS: Final = {
    COMPLETED: (COMPLETED, "Training job completed"),
    FAILED: (FAILED, "Training job failed"),
    STOPPED: (STOPPED, "Training job stopped"),
    MAX_RUNTIME_EXCEEDED: (STOPPED, "Training job runtime exceeded MaxRuntimeInSeconds provided"),
    MAX_WAIT_TIME_EXCEEDED: (STOPPED, "Training job runtime exceeded MaxWaitTimeInSeconds provided"),
}
"""Primary status and message of each secondary status in which a job has ended."""
_OFF: Final = ("EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining", "EnableNetworkIsolation")
LONGEST_REASON: Final = 1024
"""Characters of `FailureReason`, and of the failure file that it repeats."""


class TrainingJob:
    """
    A training job.

    Args:
        account: Its account.
        region: Its Region.
        request: The parameters of CreateTrainingJob, which SageMaker has accepted.
        vpc: Id of the VPC of its subnets; empty if it has none.
    """

    def __init__(self, *, account: str, region: str, request: Mapping[str, Any], vpc: str = "") -> None:
        from moto.utilities.utils import get_partition

        self.account = account
        self.region = region
        self.request = request
        self.vpc = vpc
        self.name = str(request["TrainingJobName"])
        # ARNs have the name in lower case (boto/boto3 issue 4606).
        self.arn = f"arn:{get_partition(region)}:sagemaker:{region}:{account}:training-job/{self.name.lower()}"
        self.tags: list[dict[str, str]] = [dict(tag) for tag in request.get("Tags") or ()]
        self.created_at = self.modified_at = datetime.now(UTC)
        self.status = IN_PROGRESS
        self.secondary = ""
        self.failure_reason = ""
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.training_seconds = 0.0
        self.billable_seconds = 0.0
        self._transitions: list[dict[str, Any]] = []
        self._lock = threading.RLock()
        self.enter(STARTING, "Preparing the instances for training")

    @property
    def instance_type(self) -> str:
        """The instance type, such as `ml.g5.xlarge`."""
        return str(self.request["ResourceConfig"]["InstanceType"])

    @property
    def is_spot(self) -> bool:
        """Whether the job is managed Spot training."""
        return bool(self.request.get("EnableManagedSpotTraining"))

    @property
    def stop_requested(self) -> bool:
        """Whether the job is stopping."""
        return self.status == STOPPING

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.status not in (IN_PROGRESS, STOPPING)

    def enter(self, secondary: str, message: str) -> None:
        """Enter a secondary status of a job that has not ended; one that is stopping only uploads what it has."""
        with self._lock:
            if self.is_over or (self.stop_requested and secondary != UPLOADING):
                return
            self._note(secondary, message)

    def request_stop(self) -> bool:
        """Begin to stop the job; False if it is not in progress."""
        with self._lock:
            if self.status != IN_PROGRESS:
                return False
            self.status = STOPPING
            self._note(STOPPING, "Stopping the training job")
            return True

    def begin(self) -> None:
        """Note that the job has instances."""
        with self._lock:
            self.enter(DOWNLOADING, "Downloading the training image")
            # One moment for both, as SageMaker tells it.
            self.started_at = self.started_at or self.modified_at

    def end(self, secondary: str, *, reason: str = "", at: datetime | None = None) -> None:
        """
        End the job.

        Args:
            secondary: The secondary status in which it ends. A job that was stopped is not completed.
            reason: Why it failed, of which `LONGEST_REASON` characters are kept.
            at: When it ended on its instances. Default: now.
        """
        with self._lock:
            if secondary == COMPLETED and self.stop_requested:
                secondary = STOPPED
            self.failure_reason = reason[:LONGEST_REASON]
            self.status, message = _ENDS[secondary]
            self._note(secondary, message)
            self.ended_at = at or self.modified_at
            self._transitions[-1]["EndTime"] = self.modified_at

    def summary(self) -> dict[str, Any]:
        """Describe the job as ListTrainingJobs does."""
        with self._lock:
            found = {
                "TrainingJobName": self.name,
                "TrainingJobArn": self.arn,
                "CreationTime": self.created_at,
                "TrainingEndTime": self.ended_at,
                "LastModifiedTime": self.modified_at,
                "TrainingJobStatus": self.status,
                "SecondaryStatus": self.secondary,
            }
            return {name: value for name, value in found.items() if value is not None}

    def describe(self) -> dict[str, Any]:
        """Describe the job as DescribeTrainingJob does."""
        with self._lock:
            output = self.request["OutputDataConfig"]["S3OutputPath"].rstrip("/")
            found = {
                **dict.fromkeys(_OFF, False),
                **{name: value for name, value in self.request.items() if name != "Tags"},
                **self.summary(),
                "ModelArtifacts": {"S3ModelArtifacts": f"{output}/{self.name}/output/model.tar.gz"},
                "ProfilingStatus": "Disabled",
                "SecondaryStatusTransitions": [dict(each) for each in self._transitions],
                **({"FailureReason": self.failure_reason} if self.failure_reason else {}),
            }
            # API Reference: these "may not be present", depending on how far the job came.
            found.pop("TrainingEndTime", None)
            if self.started_at is not None:
                found["TrainingStartTime"] = self.started_at
                if self.ended_at is not None:
                    found["TrainingEndTime"] = self.ended_at
                    found["TrainingTimeInSeconds"] = max(1, round(self.training_seconds))
                    found["BillableTimeInSeconds"] = max(1, round(self.billable_seconds))
            return found

    def _note(self, secondary: str, message: str) -> None:
        last = self._transitions[-1] if self._transitions else {}
        if (last.get("Status"), last.get("StatusMessage")) == (secondary, message):
            return
        self.modified_at = datetime.now(UTC)
        if last:
            last["EndTime"] = self.modified_at
        self.secondary = secondary
        self._transitions.append({"Status": secondary, "StartTime": self.modified_at, "StatusMessage": message})
