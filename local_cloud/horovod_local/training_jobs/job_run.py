"""
The life of one training job: it waits for instances, runs a container on each, stops them, and uploads their output.

Sources: SageMaker API Reference, CreateTrainingJob, StopTrainingJob and `StoppingCondition`; SageMaker Developer Guide,
"Managed Spot Training" and "How Amazon SageMaker Signals Algorithm Success and Failure".

What AWS does not document is acted as strictly as it could be: one container that fails ends the job, a job has not
ended before all of its containers have, and Spot interruptions kill the containers without a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from horovod_local.corrections.sagemaker.operations import refusal_of
from horovod_local.corrections.sagemaker.training_job import (
    COMPLETED,
    FAILED,
    INTERRUPTED,
    LONGEST_REASON,
    MAX_RUNTIME_EXCEEDED,
    MAX_WAIT_TIME_EXCEEDED,
    PENDING,
    STARTING,
    STOPPED,
    TRAINING,
    UPLOADING,
    TrainingJob,
)
from horovod_local.errors import LocalCloudError
from horovod_local.instances.addresses import Addresses
from horovod_local.instances.instance_types import resources_of
from horovod_local.permissions.principals import PRINCIPALS
from horovod_local.shared.faults import ACTIVE_FAULTS, CAPACITY
from horovod_local.shared.price_list import SAGEMAKER_SPOT_SHARE
from horovod_local.training_jobs.host import HOSTS_FILE, Host, LocalTrainingHost
from horovod_local.training_jobs.output import upload_output
from horovod_local.training_jobs.role import CANNOT_PULL, why_not_started
from horovod_node import contract

NO_CAPACITY: Final = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
)
INTERNAL_ERROR: Final = "InternalServerError: We encountered an internal error. Please try again."

_log = logging.getLogger(__name__)


class JobRun:
    """
    Acts one job, one `step` at a time.

    Args:
        job: The job.
        folder: Folder for the files of its hosts: `<start>/<host>/container.log` and `ml`.
        endpoint: URL of the local cloud.
        command: Program of the containers, with its arguments.
        addresses: The cloud's addresses, of which each host takes one.
        now: The present time of the clock of `step`.
    """

    def __init__(
        self,
        job: TrainingJob,
        *,
        folder: Path,
        endpoint: str,
        command: Sequence[str],
        addresses: Addresses,
        now: float,
    ) -> None:
        self.job = job
        self.hosts: list[Host] = []
        self._folder = folder
        self._endpoint = endpoint
        self._command = command
        self._addresses = addresses
        self._created = now
        self._waiting_since = now
        self._provisioning_since: float | None = None
        self._start = 0
        self._begun: float | None = None
        self._ran = 0.0
        self._retries = int((job.request.get("RetryStrategy") or {}).get("MaximumRetryAttempts", 0))
        self._host_names = [f"algo-{n}" for n in range(1, int(job.request["ResourceConfig"]["InstanceCount"]) + 1)]
        self._keys: list[str] = []
        self._names: Path | None = None
        self._outcome = ""
        self._reason = ""
        self._failed_at: datetime | None = None
        self._stopping_since = 0.0

    def step(self, now: float) -> None:
        """Bring the job to the time *now*, in seconds of a steady clock."""
        for host in self.hosts:
            host.supervise()
        if not self.hosts:
            self._wait(now)
        elif not self._outcome:
            self._run(now)
        else:
            self._finish_hosts(now)

    def interrupt(self, now: float) -> None:
        """
        Interrupt the Spot Instances of the job: its containers are killed, and it starts again with empty folders.

        Raises:
            LocalCloudError: If the job is not managed Spot training, or has no instances.
        """
        if not self.job.is_spot:
            raise LocalCloudError(f"'job' must be managed Spot training, got {self.job.name}, which is On-Demand")
        if not self.hosts or self._outcome:
            raise LocalCloudError(f"'job' must have instances to interrupt, got {self.job.name}, which has none")
        # First, so that no container hears of it.
        self.kill()
        self._decide(INTERRUPTED, now)

    def kill(self) -> None:
        """Kill the containers."""
        for host in self.hosts:
            host.kill()

    def _wait(self, now: float) -> None:
        """Wait for instances, and start the hosts once they are there."""
        job, faults = self.job, ACTIVE_FAULTS.faults
        if job.stop_requested:
            self._end(STOPPED)
        elif self._has_waited_too_long(now):
            self._end(MAX_WAIT_TIME_EXCEEDED)
        elif refusal_of(job) == CAPACITY:
            self._provisioning_since = None
            job.enter(PENDING, "Training job waiting for capacity")
            if not job.is_spot and now >= self._waiting_since + faults.job_capacity_seconds:
                self._end(FAILED, reason=NO_CAPACITY)
        elif self._provisioning_since is None:
            self._provisioning_since = now
            job.enter(PENDING, "Preparing the instances for training")
        elif now >= self._provisioning_since + faults.job_start_seconds:
            self._begin(now)

    def _begin(self, now: float) -> None:
        """Start a container on each of the instances, which are there now."""
        job, faults = self.job, ACTIVE_FAULTS.faults
        self._begun, self._start = now, self._start + 1
        job.begin()
        reason = why_not_started(job) if faults.images_pull else CANNOT_PULL
        if not reason and not faults.agents_start:
            reason = INTERNAL_ERROR
        if not reason:
            try:
                self._start_hosts()
            except (LocalCloudError, OSError) as error:
                self.kill()
                reason = f"InternalServerError: the local cloud cannot start the hosts: {error}"
        if reason:
            self._fail(reason, now)
            self._conclude(now)
            return
        job.enter(TRAINING, "Training image download completed. Training in progress.")
        self._name_hosts(now)

    def _start_hosts(self) -> None:
        job, folder, names = self.job, self._folder / str(self._start), self._host_names
        facts = [self._facts_of(name, folder=folder / name) for name in names]
        self._names = folder / "hosts"
        for each in facts:
            Path(each.log).parent.mkdir(parents=True)
        self._names.write_text(Path(HOSTS_FILE).read_text(encoding="utf-8"), encoding="utf-8")
        role = job.request["RoleArn"]
        self._keys = [
            PRINCIPALS.assume(role, region=job.region, session="SageMaker", caller=f"{name}-{job.name}", vpc=job.vpc)
            for name in names
        ]
        for each, key in zip(facts, self._keys, strict=True):
            self.hosts.append(
                Host(
                    facts=each,
                    hosts=names,
                    request=job.request,
                    arn=job.arn,
                    region=job.region,
                    endpoint=self._endpoint,
                    access_key=key,
                    names=self._names,
                    command=self._command,
                )
            )
        _log.info("%s started %d hosts", job.name, len(names))

    def _facts_of(self, name: str, *, folder: Path) -> LocalTrainingHost:
        job = self.job
        address = self._addresses.take(f"{job.arn}/{name}")
        if address is None:
            raise LocalCloudError("the network has addresses for 254 nodes only")
        return LocalTrainingHost(
            job=job.name,
            host=name,
            start=self._start,
            address=address,
            instance_type=job.instance_type,
            gpus=resources_of(job.instance_type.removeprefix("ml."))[2],
            market=contract.SPOT if job.is_spot else contract.ON_DEMAND,
            log=str(folder / "container.log"),
        )

    def _name_hosts(self, now: float) -> None:
        """Let the names of the hosts resolve, once they shall."""
        late = ACTIVE_FAULTS.faults.host_name_seconds
        if self._names is not None and self._begun is not None and now >= self._begun + late:
            lines = (f"{host.facts.address} {host.facts.host}\n" for host in self.hosts)
            # The containers have this very file, so it must not be replaced by another one.
            with self._names.open("a", encoding="utf-8") as file:
                file.write("\n" + "".join(lines))
            self._names = None

    def _run(self, now: float) -> None:
        """See whether something ends the job while its containers run."""
        self._name_hosts(now)
        job = self.job
        failed = next((host for host in self.hosts if host.exit_code), None)
        if any(host.was_lost for host in self.hosts):
            self._fail(INTERNAL_ERROR, now)
        elif failed is not None and not job.stop_requested:
            end = f", exit code: {failed.exit_code}"
            self._fail(f"AlgorithmError: {failed.failure}"[: LONGEST_REASON - len(end)] + end, now)
        elif job.stop_requested:
            self._decide(STOPPED, now)
        elif all(host.exit_code == 0 for host in self.hosts):
            self._decide(COMPLETED, now)
        elif self._seconds_run(now) > job.request["StoppingCondition"]["MaxRuntimeInSeconds"]:
            self._decide(MAX_RUNTIME_EXCEEDED, now)
            job.request_stop()
        elif self._has_waited_too_long(now):
            self._decide(MAX_WAIT_TIME_EXCEEDED, now)
            job.request_stop()

    def _finish_hosts(self, now: float) -> None:
        """Wait until the containers have ended; kill them when their time is over."""
        if now >= self._stopping_since + ACTIVE_FAULTS.faults.job_stop_seconds:
            self.kill()
        if all(host.exit_code is not None for host in self.hosts):
            self._conclude(now)

    def _decide(self, outcome: str, now: float) -> None:
        """Decide how the present start of the job ends, and ask the containers that still run to stop."""
        self._outcome, self._stopping_since = outcome, now
        for host in self.hosts:
            host.stop()

    def _fail(self, reason: str, now: float) -> None:
        # API Reference, `TrainingEndTime`: "For failed jobs, this is the time when SageMaker detects a job failure."
        self._reason, self._failed_at = reason, datetime.now(UTC)
        self._stop_clock(now)
        self._decide(FAILED, now)

    def _conclude(self, now: float) -> None:
        """End the job, or start it again, after its containers have ended."""
        job, outcome, reason = self.job, self._outcome, self._reason
        if outcome not in (FAILED, INTERRUPTED):
            job.enter(UPLOADING, "Uploading generated training model")
            folders = [host.ml for host in self.hosts]
            reason = upload_output(job, folders, endpoint=self._endpoint, access_key=self._keys[0])
            outcome = FAILED if reason else outcome
        self._stop_clock(now)
        self._leave_hosts()
        if outcome == INTERRUPTED:
            job.enter(INTERRUPTED, "Training job interrupted")
            self._start_again(now)
        elif reason == INTERNAL_ERROR and job.stop_requested:
            self._end(STOPPED)
        elif reason == INTERNAL_ERROR and self._retries:
            self._retries -= 1
            self._start_again(now)
        else:
            self._end(outcome, reason=reason)

    def _stop_clock(self, now: float) -> None:
        """Note for how long the job has had instances; repeated calls add nothing."""
        self._ran, self._begun = self._seconds_run(now), None

    def _leave_hosts(self) -> None:
        for name in self._host_names:
            self._addresses.release(f"{self.job.arn}/{name}")
        self.hosts, self._outcome, self._reason = [], "", ""

    def _start_again(self, now: float) -> None:
        """Wait for new instances. API Reference, `RetryStrategy`: "its SecondaryStatus is changed to STARTING"."""
        self._waiting_since, self._provisioning_since, self._failed_at = now, None, None
        self.job.enter(STARTING, "Preparing the instances for training")

    def _end(self, secondary: str, *, reason: str = "") -> None:
        job = self.job
        job.training_seconds = self._ran
        job.billable_seconds = self._ran * (SAGEMAKER_SPOT_SHARE if job.is_spot else 1)
        job.end(secondary, reason=reason, at=self._failed_at if secondary == FAILED else None)
        _log.info("%s ended: %s %s", job.name, job.secondary, reason)

    def _seconds_run(self, now: float) -> float:
        """Return for how long the job has had instances, over all of its starts."""
        return self._ran + (0 if self._begun is None else now - self._begun)

    def _has_waited_too_long(self, now: float) -> bool:
        longest = self.job.request["StoppingCondition"].get("MaxWaitTimeInSeconds")
        return longest is not None and now > self._created + longest
