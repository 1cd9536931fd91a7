"""
One host of a training job: its container as a process, with the folders and variables that SageMaker gives it.

Sources: SageMaker Developer Guide, "How Amazon SageMaker Runs Your Training Image" (`train`), "How Amazon SageMaker
Provides Training Information" (the files in `/opt/ml/input/config`, variables) and "How Amazon SageMaker Signals
Algorithm Success and Failure" (exit code, `/opt/ml/output/failure`); a `resourceconfig.json` of a real job
(ultralytics/yolov5 issue 12811).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from horovod_local.instances import opt_ml
from horovod_local.instances.processes import (
    CLOUD_VARIABLE,
    cloud_environment,
    kill_processes_with,
    without_aws,
)
from horovod_node import contract

CONTAINER_VARIABLE: Final = "CDK_HOROVOD_LOCAL_TRAINING_HOST"
"""Environment variable of a container's processes, with the ARN of the job and the number and name of the host."""
HOSTS_FILE: Final = "/etc/hosts"
FAILURE_LIMIT: Final = 1024
"""Characters of `/opt/ml/output/failure` that SageMaker reads."""

_GROUP: Final = "homogeneousCluster"
"""Name of the only instance group of a job without `InstanceGroups`."""


@dataclass(frozen=True, kw_only=True)
class LocalTrainingHost:
    """
    One host of a training job that has instances.

    Args:
        job: Name of the job.
        host: Name of the host, such as `algo-1`.
        start: How often SageMaker has started the job's hosts: 1, and 1 more for each interruption or retry.
        pid: Process id, and process group, of the container; None if it has ended.
        address: Its IP address on this machine, to which its name resolves in the containers of the job.
        instance_type: Instance type, such as `ml.g5.xlarge`.
        gpus: GPUs of the instance type.
        market: `on-demand` or `spot`.
        log: File with the container's output; the folder `ml` beside it is the container's `/opt/ml`.
    """

    job: str
    host: str
    start: int
    pid: int | None = None
    address: str
    instance_type: str
    gpus: int
    market: str
    log: str


class Host:
    """
    A host with its container, which starts at once.

    Args:
        facts: Description of the host, without the process id.
        hosts: Names of all hosts of the job.
        request: The parameters of CreateTrainingJob.
        arn: ARN of the job.
        region: Region of the job.
        endpoint: URL of the local cloud.
        access_key: Id of an access key of the job's role.
        names: File in the place of the container's `/etc/hosts`.
        command: Program of the container, with its arguments.
    """

    def __init__(
        self,
        *,
        facts: LocalTrainingHost,
        hosts: Sequence[str],
        request: Mapping[str, Any],
        arn: str,
        region: str,
        endpoint: str,
        access_key: str,
        names: Path,
        command: Sequence[str],
    ) -> None:
        self.exit_code: int | None = None
        """Exit code of the container, as Docker gives it; None while it runs."""
        self.was_lost = False
        """Whether the host was lost."""
        self.ml = Path(facts.log).parent / "ml"
        """The folder that is the container's `/opt/ml`."""
        self._facts = facts
        self._id = f"{arn}/{facts.start}/{facts.host}"
        _write_config(self.ml, facts, hosts, request)
        environment = {
            **without_aws(os.environ),
            **(request.get("Environment") or {}),
            "TRAINING_JOB_NAME": facts.job,
            "TRAINING_JOB_ARN": arn,
            "AWS_REGION": region,
            **cloud_environment(endpoint, access_key=access_key),
            # This machine has no GPUs.
            contract.ENV_NODE_GPUS: str(facts.gpus),
            # All containers share the /tmp of this machine, where the agent would have its folders.
            contract.ENV_ML_ROOT: str(self.ml.with_name("root")),
            # The agent also prints the log lines that it ships: here they are read from its log file.
            contract.ENV_ECHO: "1",
            CLOUD_VARIABLE: endpoint,
            CONTAINER_VARIABLE: self._id,
        }
        with Path(facts.log).open("ab") as output:
            self._process = subprocess.Popen(
                opt_ml.command(names, opt_ml.command(self.ml, command), at=HOSTS_FILE),
                cwd=self.ml.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def facts(self) -> LocalTrainingHost:
        """The present description of the host."""
        return replace(self._facts, pid=self._process.pid if self.exit_code is None else None)

    @property
    def failure(self) -> str:
        """What the container left in `/opt/ml/output/failure`; '' if nothing."""
        try:
            return (self.ml / "output" / "failure").read_text(encoding="utf-8", errors="replace")[:FAILURE_LIMIT]
        except OSError:
            return ""

    def supervise(self) -> None:
        """Note whether the container has ended, and kill what it has left."""
        code = self._process.poll()
        if code is not None and self.exit_code is None:
            self._kill_rest()
            # Docker: 128 and the number of the signal.
            self.exit_code = code if code >= 0 else 128 - code

    def stop(self) -> None:
        """Send SIGTERM to the container's first process, as Docker does."""
        if self.exit_code is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill all processes of the container, in whatever session or process group they are."""
        self._kill_rest()
        self._process.wait()
        self.supervise()

    def lose(self) -> None:
        """Lose the host: its container is killed at once."""
        self.was_lost = True
        self.kill()

    def _kill_rest(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        kill_processes_with(CONTAINER_VARIABLE, self._id)


def _write_config(ml: Path, facts: LocalTrainingHost, hosts: Sequence[str], request: Mapping[str, Any]) -> None:
    for folder in ("input/config", "input/data", "model", "output/data"):
        (ml / folder).mkdir(parents=True)
    # The guide: "sorted lexicographically", so algo-10 comes before algo-2.
    names = sorted(hosts)
    group = {"instance_group_name": _GROUP, "instance_type": facts.instance_type, "hosts": names}
    contents = {
        "resourceconfig": {
            "current_host": facts.host,
            "current_instance_type": facts.instance_type,
            "current_group_name": _GROUP,
            "hosts": names,
            "instance_groups": [group],
            "network_interface_name": "lo",
        },
        "hyperparameters": request.get("HyperParameters") or {},
        "inputdataconfig": {},
    }
    for name, content in contents.items():
        (ml / "input" / "config" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
