"""`LocalCloud`: starts a local cloud, deploys into it, injects faults and stops it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import boto3
from botocore.config import Config

from horovod_client.aws.clients import pricing_region
from horovod_client.client import TrainingClient
from horovod_local.deployment.deploy import Outputs, deploy
from horovod_local.errors import LocalCloudError
from horovod_local.instances.machine import CONTROL_PATH, LocalInstance
from horovod_local.instances.processes import CLOUD_VARIABLE, cloud_environment, kill_processes_with, without_aws
from horovod_local.server import DEFAULT_ACCOUNT, ENDPOINT_FILE
from horovod_local.shared.access_keys import read_key
from horovod_local.shared.faults import Faults
from horovod_local.training_jobs.host import LocalTrainingHost

START_SECONDS: Final = 180.0
"""A start takes two seconds; a loaded machine takes longer."""
STOP_SECONDS: Final = 10.0
DEFAULT_REGION: Final = "eu-west-1"


class LocalCloud:
    """
    AWS on this machine, for as long as the `with` block lasts.

    Starts a server process bound to loopback. The server and its nodes end with the block, and also when this process
    dies, however it dies.

    Args:
        home: Folder for the server's log and the instances' files. Default: a temporary one, deleted at the end.
        region: Default Region of clients, and of stacks that name none.
        account: The cloud's only account.
        node_python: Python interpreter that runs the nodes. Default: the one that runs this.
        schedule_speed: Factor by which EventBridge schedules run faster than real time. Default: 1.

    Raises:
        LocalCloudError: On entering, if the server does not start; the message names its log.
    """

    def __init__(
        self,
        *,
        home: Path | None = None,
        region: str = DEFAULT_REGION,
        account: str = DEFAULT_ACCOUNT,
        node_python: str = sys.executable,
        schedule_speed: float = 1.0,
    ) -> None:
        self._temporary = None if home else tempfile.TemporaryDirectory(prefix="horovod-local-")
        self.home = home or Path(self._temporary.name if self._temporary else "")
        self.region = region
        self.account = account
        self.endpoint = ""
        self.access_key = ""
        """The administrator's access key, which the server made; the cloud refuses requests without a key."""
        self._node_python = node_python
        self._schedule_speed = schedule_speed
        self._server: subprocess.Popen[bytes] | None = None
        self._clients: dict[tuple[str, str, str | None], Any] = {}
        self._sessions: dict[str, str] = {}

    def __enter__(self) -> LocalCloud:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.home / "server.log"

    def start(self) -> None:
        """Start the server and wait until it answers; entering the `with` block does this."""
        self.home.mkdir(parents=True, exist_ok=True)
        address = self.home / ENDPOINT_FILE
        address.unlink(missing_ok=True)
        command = [sys.executable, "-m", "horovod_local", "serve", "--home", str(self.home), "--stop-with-stdin"]
        command += ["--port", "0", "--account", self.account, "--node-python", self._node_python]
        command += ["--schedule-speed", str(self._schedule_speed)]
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                command,
                env=without_aws(os.environ),
                # The server watches this pipe, which closes however this process ends.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C must reach this process only, which then stops the server in order.
                start_new_session=True,
            )
        until = time.monotonic() + START_SECONDS
        while not address.exists():
            if self._server.poll() is not None or time.monotonic() > until:
                last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                self.stop()
                raise LocalCloudError(f"the local cloud did not start: {''.join(last) or 'no answer'} (see {self.log})")
            time.sleep(0.02)
        self.endpoint = address.read_text(encoding="utf-8")
        self.access_key = read_key(self.home)

    def stop(self) -> None:
        """Stop the server and every node; leaving the `with` block does this."""
        server, self._server = self._server, None
        self._clients.clear()
        self._sessions.clear()
        if server is None:
            return
        if server.stdin is not None:
            server.stdin.close()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if self.endpoint:
            # Nodes are left only if the server itself was killed.
            kill_processes_with(CLOUD_VARIABLE, self.endpoint)
        if self._temporary is not None:
            self._temporary.cleanup()

    def is_alive(self) -> bool:
        """Whether the server runs."""
        return self._server is not None and self._server.poll() is None

    def deploy(self, assembly: Path, *, tell: Callable[[str], None] = print) -> Outputs:
        """
        Deploy every stack of a cloud assembly, and return the outputs by stack and key.

        Args:
            assembly: The folder `cdk.out`, unchanged.
            tell: Called with one line of text for each thing that was accepted although it has no effect here.

        Raises:
            LocalCloudError: If the assembly cannot be read, or a stack failed; the message names resource and reason.
        """
        return deploy(
            assembly,
            clients=self.client,
            endpoint=self.endpoint,
            account=self.account,
            region=self.region,
            tell=tell,
        )

    def client(self, service: str, *, region: str | None = None, role_arn: str | None = None) -> Any:
        """
        Return a boto3 client of *service* that talks to this cloud only; repeated calls return the same client.

        Args:
            service: Name of the service in boto3.
            region: Region of the client. Default: the cloud's.
            role_arn: Role to act as, which must trust the account. Default: the administrator.

        Raises:
            ClientError: `AccessDenied`, if the role does not trust the account.
        """
        key = (service, region or self.region, role_arn)
        if key not in self._clients:
            access_key = self._session_key(role_arn) if role_arn else self.access_key
            self._clients[key] = client(service, endpoint=self.endpoint, region=key[1], access_key=access_key)
        return self._clients[key]

    def _session_key(self, role_arn: str) -> str:
        """Return the access key id of a session of the role, which is assumed once."""
        if role_arn not in self._sessions:
            assumed = self.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="local")
            self._sessions[role_arn] = str(assumed["Credentials"]["AccessKeyId"])
        return self._sessions[role_arn]

    def without_opt_ml(self) -> str:
        """Return why nodes have no private `/opt/ml` on this machine; '' if they have one."""
        return str(self._call_control_api("GET", "opt-ml")["refusal"])

    def permissions(self) -> dict[str, Any]:
        """
        Return how the deployed permissions have been used so far, as JSON.

        `statements` lists all statements of all policies; each pattern of an action or a resource has the principals
        that were allowed something by it. `denials` lists the denied requests of roles, users and nodes, with reasons.
        """
        answer: dict[str, Any] = self._call_control_api("GET", "permissions")
        return answer

    def training(self, stack: str = "Training", *, role_arn: str | None = None) -> TrainingClient:
        """
        Connect to a training that was deployed here, as `TrainingClient.from_stack` does on AWS.

        Args:
            stack: Name of the training's stack.
            role_arn: Role to act as, as in `client`.

        Raises:
            ConnectionNotFound: If the stack does not exist or has no training.
        """
        services = ("cloudformation", "stepfunctions", "s3", "dynamodb", "logs", "autoscaling", "ec2", "sagemaker")
        # As `AwsClients` does: most Regions have no endpoint of the Price List API.
        pricing = self.client("pricing", region=pricing_region(self.region), role_arn=role_arn)
        clients = {name: self.client(name, role_arn=role_arn) for name in services}
        return TrainingClient.from_stack(stack, pricing=pricing, **clients)

    def environment(self) -> dict[str, str]:
        """Return this process's environment with its AWS settings replaced by those of this cloud."""
        return {
            **without_aws(os.environ),
            **cloud_environment(self.endpoint, access_key=self.access_key),
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    def instances(self) -> list[LocalInstance]:
        """List the running instances, including those that are being terminated."""
        return [LocalInstance(**item) for item in self._call_control_api("GET", "instances")]

    def lose(self, instance_id: str) -> None:
        """
        Cut the power of an instance: its processes are killed at once, and EC2 reports it as terminated.

        Raises:
            LocalCloudError: If no such instance runs.
        """
        self._call_control_api("DELETE", f"instances/{instance_id}")

    def interrupt(self, instance_id: str, *, notice_seconds: float = 120.0) -> None:
        """
        Interrupt a Spot Instance as EC2 does: with a notice in its metadata and in EventBridge.

        After the notice its processes are killed at once, EC2 reports it as terminated, and its group replaces it.

        Args:
            instance_id: The instance.
            notice_seconds: Seconds from the notice to the termination. Default: 120, as on EC2.

        Raises:
            LocalCloudError: If no such instance runs, if it is not a Spot Instance or is already being interrupted, or
                if *notice_seconds* is negative.
        """
        if notice_seconds < 0:
            raise LocalCloudError(f"'notice_seconds' must be at least 0, got {notice_seconds}")
        self._call_control_api("POST", f"instances/{instance_id}/interrupt", {"notice_seconds": notice_seconds})

    def recommend_rebalance(self, instance_id: str) -> None:
        """
        Give a Spot Instance a rebalance recommendation, in its metadata and in EventBridge; nothing else happens.

        Raises:
            LocalCloudError: If no such instance runs, or it is not a Spot Instance.
        """
        self._call_control_api("POST", f"instances/{instance_id}/recommend-rebalance")

    def drop(self, instance_id: str) -> None:
        """
        Make an instance silently unreachable, as if the network had failed.

        All of its processes are stopped (SIGSTOP), including its dead-man's switch. This is the closest emulation on
        loopback: nothing on the instance answers, and no connection is reset. Unlike with a failed network, the kernel
        still acknowledges data while buffers have room. EC2 keeps reporting the instance as running.

        Raises:
            LocalCloudError: If no such instance runs.
        """
        self._call_control_api("POST", f"instances/{instance_id}/drop")

    def training_hosts(self) -> list[LocalTrainingHost]:
        """List the hosts of the training jobs that have instances, of each job in their order."""
        return [LocalTrainingHost(**item) for item in self._call_control_api("GET", "training-hosts")]

    def lose_training_host(self, job: str, host: str) -> None:
        """
        Lose a host of a training job: its container is killed at once, and the job fails with InternalServerError.

        SageMaker then retries the job if its `RetryStrategy` says so.

        Args:
            job: Name of the job.
            host: Name of the host, such as `algo-1`.

        Raises:
            LocalCloudError: If no container of such a host runs.
        """
        self._call_control_api("DELETE", f"training-hosts/{job}/{host}")

    def interrupt_training_job(self, job: str) -> None:
        """
        Interrupt a managed Spot training job: all of its containers are killed at once, without any notice.

        The same job starts again on new instances, with empty folders, as soon as there is capacity.

        Raises:
            LocalCloudError: If no such job runs, if it is not managed Spot training, or if it has no instances.
        """
        self._call_control_api("POST", f"training-jobs/{job}/interrupt")

    def set_faults(self, faults: Faults) -> None:
        """Inject *faults* in place of the present ones; `Faults()` ends all of them."""
        self._call_control_api("PUT", "faults", faults.to_json())

    def _call_control_api(self, method: str, path: str, body: Any = None) -> Any:
        return call_control_api(self.endpoint, method, path, body, access_key=self.access_key)


def call_control_api(endpoint: str, method: str, path: str, body: Any = None, *, access_key: str) -> Any:
    """
    Send a request to the control API of the local cloud at *endpoint*, and return the answer.

    Raises:
        LocalCloudError: If the cloud refuses it; the message says why.
    """
    data = None if body is None else json.dumps(body).encode()
    # The endpoint is the cloud's own, so its scheme is known to be http.
    request = urllib.request.Request(  # noqa: S310
        endpoint + CONTROL_PATH + path, data=data, method=method, headers={"Authorization": f"Bearer {access_key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        # `Authentication` refuses with plain text, not with JSON.
        raise LocalCloudError(json.loads(text)["error"] if text.startswith("{") else text.strip()) from error


def client(service: str, *, endpoint: str, region: str, access_key: str) -> Any:
    """Make a boto3 client of *service* for the local cloud at *endpoint*, with that cloud's *access_key*."""
    credentials = cloud_environment(endpoint, access_key=access_key)
    make: Any = boto3.session.Session().client  # boto3's type stubs accept only literal service names
    return make(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
        config=Config(
            retries={"total_max_attempts": 3},
            s3={"addressing_style": "path"},
            inject_host_prefix=False,  # otherwise TestState calls the host "sync-localhost"
        ),
    )
