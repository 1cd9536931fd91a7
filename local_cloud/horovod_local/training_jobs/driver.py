"""Acts every training job that SageMaker has accepted, until it has ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from horovod_local.corrections.sagemaker.training_job import FAILED, TrainingJob
from horovod_local.instances.addresses import Addresses
from horovod_local.training_jobs.host import Host
from horovod_local.training_jobs.job_run import JobRun

POLL_SECONDS: Final = 0.1

_log = logging.getLogger(__name__)


class TrainingJobDriver(threading.Thread):
    """
    Runs the jobs until `stop` is called.

    Args:
        home: Folder for the jobs' files: `training-jobs/<region>/<job>`.
        endpoint: URL of the local cloud, for the containers.
        node_python: Python interpreter that runs `horovod_node`.
        addresses: The cloud's addresses, of which each host takes one.
        without_opt_ml: Why containers can have no private `/opt/ml` and `/etc/hosts`; '' if they can. Jobs then fail.
    """

    def __init__(
        self, *, home: Path, endpoint: str, node_python: str, addresses: Addresses, without_opt_ml: str
    ) -> None:
        super().__init__(name="training jobs", daemon=True)
        self._home = home
        self._endpoint = endpoint
        # SageMaker Developer Guide: "docker run image train".
        self._command = [node_python, "-m", "horovod_node", "train"]
        self._addresses = addresses
        self._without_opt_ml = without_opt_ml
        self._runs: dict[str, JobRun] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            for job in _jobs():
                try:
                    self._step(job)
                except Exception:
                    # One failing job must not end all the others.
                    _log.exception("running %s failed; trying again", job.name)

    def stop(self) -> None:
        """Kill all containers, and return when all of their processes have ended."""
        self._stopping.set()
        self.join()
        with self._lock:
            for run in self._runs.values():
                run.kill()

    def hosts(self) -> list[dict[str, Any]]:
        """Describe the hosts of all jobs that have instances, as JSON."""
        with self._lock:
            return [asdict(host.facts) for run in self._runs.values() for host in run.hosts]

    def lose(self, job: str, host: str) -> bool:
        """Lose a host, so that its job fails; False if there is no such host."""
        with self._lock:
            found = self._find(job, host)
            if found is None:
                return False
            _log.info("%s of %s lost", host, job)
            found.lose()
            return True

    def interrupt(self, job: str) -> bool:
        """
        Interrupt the Spot Instances of a job, which starts again; False if there is no such job.

        Raises:
            LocalCloudError: If the job is not managed Spot training, or has no instances.
        """
        with self._lock:
            run = next((run for run in self._runs.values() if run.job.name == job), None)
            if run is None:
                return False
            _log.info("%s interrupted", job)
            run.interrupt(time.monotonic())
            return True

    def _step(self, job: TrainingJob) -> None:
        if self._without_opt_ml:
            job.end(
                FAILED,
                reason="InternalServerError: the local cloud cannot act training jobs on this machine, which permits "
                f"containers neither their own /opt/ml nor host names: {self._without_opt_ml}",
            )
            return
        now = time.monotonic()
        with self._lock:
            if job.arn not in self._runs:
                self._runs[job.arn] = JobRun(
                    job,
                    folder=self._home / "training-jobs" / job.region / job.name,
                    endpoint=self._endpoint,
                    command=self._command,
                    addresses=self._addresses,
                    now=now,
                )
            self._runs[job.arn].step(now)
            if job.is_over:
                del self._runs[job.arn]

    def _find(self, job: str, host: str) -> Host | None:
        hosts = (each for run in self._runs.values() if run.job.name == job for each in run.hosts)
        return next((each for each in hosts if each.facts.host == host and each.exit_code is None), None)


def _jobs() -> Iterator[TrainingJob]:
    """Yield the jobs that have not ended."""
    from moto.sagemaker.models import sagemaker_backends

    for regions in list(sagemaker_backends.values()):
        for backend in list(regions.values()):
            for job in list(backend.training_jobs.values()):
                if not job.is_over:
                    yield job
