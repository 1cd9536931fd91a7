"""The local cloud from the outside: started, deployed into, watched and stopped."""

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
from horovod_local.instances.machine import OWN_PATH, LocalInstance
from horovod_local.instances.processes import CLOUD_VARIABLE, fake_credentials, kill_processes_with, without_aws
from horovod_local.server import DEFAULT_ACCOUNT, ENDPOINT_FILE
from horovod_local.shared.access_keys import read_key
from horovod_local.shared.faults import Faults

START_SECONDS: Final = 180.0
"""It takes two; a loaded machine takes longer."""
STOP_SECONDS: Final = 10.0
DEFAULT_REGION: Final = "eu-west-1"


class LocalCloud:
    """
    AWS on this machine, for as long as the `with` block lasts.

    Starts a server process of its own, bound to loopback. It ends when the block does, and also when this process
    dies, however it dies; its nodes end with it.

    Args:
        home: Folder for the server's log and the instances' files. Default: a temporary one, deleted at the end.
        region: Of clients, and of stacks that leave theirs open.
        account: The one account that the cloud has.
        node_python: Interpreter that runs the nodes. Default: the one that runs this.
        schedule_speed: How many times faster than the clock schedules of EventBridge rules run. Default: as the clock.

    Raises:
        LocalCloudError: On entering, if the server does not start; says where its log is.
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
        """The administrator's, which the server made: without it the cloud answers nobody."""
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
        """Start the server and wait until it answers; what the `with` block does first."""
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
                # The server watches this pipe, which closes when this process ends in any way.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for this process; it stops the server in its own time.
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
        """End the server and every node; what the `with` block does last."""
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
            # None are left, unless the server itself was killed.
            kill_processes_with(CLOUD_VARIABLE, self.endpoint)
        if self._temporary is not None:
            self._temporary.cleanup()

    def is_alive(self) -> bool:
        """Whether the server runs."""
        return self._server is not None and self._server.poll() is None

    def deploy(self, assembly: Path, *, tell: Callable[[str], None] = print) -> Outputs:
        """
        Deploy every stack of the cloud assembly in the folder *assembly*, and return the outputs by stack and key.

        Args:
            assembly: The folder `cdk.out`, unchanged.
            tell: Takes lines for people: what was accepted although it has no effect here.

        Raises:
            LocalCloudError: If the assembly cannot be read, or a stack failed; says which resource, and why.
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
        Return a boto3 client of *service* that talks to this cloud and to nothing else; the same one every time.

        Args:
            service: As boto3 calls it.
            region: Default: the cloud's.
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
        """Assume the role, once, and return the id of the session's access key."""
        if role_arn not in self._sessions:
            assumed = self.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="local")
            self._sessions[role_arn] = str(assumed["Credentials"]["AccessKeyId"])
        return self._sessions[role_arn]

    def without_opt_ml(self) -> str:
        """Tell why this machine gives nodes no `/opt/ml` of their own; '' if it does."""
        return str(self._ask("GET", "opt-ml")["refusal"])

    def permissions(self) -> dict[str, Any]:
        """
        Tell what became of the deployed permissions until now, as JSON.

        `statements` are all statements of all policies; each pattern of an action or a resource has those who were
        allowed something by it. `denials` are the requests of roles, users and nodes that were denied, and why.
        """
        answer: dict[str, Any] = self._ask("GET", "permissions")
        return answer

    def training(self, stack: str = "Training", *, role_arn: str | None = None) -> TrainingClient:
        """
        Connect to a training that was deployed here, as `TrainingClient.from_stack` does on AWS.

        Args:
            stack: Name of its stack.
            role_arn: Role to act as, as in `client`.

        Raises:
            ConnectionNotFound: If there is no such stack, or no training in it.
        """
        services = ("cloudformation", "stepfunctions", "s3", "dynamodb", "logs", "autoscaling", "ec2")
        # As `AwsClients` would: there is no such endpoint in most Regions.
        pricing = self.client("pricing", region=pricing_region(self.region), role_arn=role_arn)
        clients = {name: self.client(name, role_arn=role_arn) for name in services}
        return TrainingClient.from_stack(stack, pricing=pricing, **clients)

    def environment(self) -> dict[str, str]:
        """Make the environment for a process that is to work in this cloud: this process's own, without its AWS."""
        return {
            **without_aws(os.environ),
            **fake_credentials(self.endpoint, access_key=self.access_key),
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    def instances(self) -> list[LocalInstance]:
        """List the instances that run, also those that are being terminated."""
        return [LocalInstance(**item) for item in self._ask("GET", "instances")]

    def lose(self, instance_id: str) -> None:
        """
        Take the power from an instance: its processes die at once, and EC2 says terminated.

        Raises:
            LocalCloudError: If no such instance runs.
        """
        self._ask("DELETE", f"instances/{instance_id}")

    def interrupt(self, instance_id: str, *, notice_seconds: float = 120.0) -> None:
        """
        Take a Spot Instance back, as EC2 does: after a notice in its metadata, and in EventBridge.

        When the notice is over its processes die at once, EC2 says terminated, and its group replaces it.

        Args:
            instance_id: The instance.
            notice_seconds: How long before. Default: what EC2 gives at best.

        Raises:
            LocalCloudError: If no such instance runs, if it is no Spot Instance or interrupted already, or if
                *notice_seconds* is negative.
        """
        if notice_seconds < 0:
            raise LocalCloudError(f"'notice_seconds' must be at least 0, got {notice_seconds}")
        self._ask("POST", f"instances/{instance_id}/interrupt", {"notice_seconds": notice_seconds})

    def recommend_rebalance(self, instance_id: str) -> None:
        """
        Tell a Spot Instance that it is more likely than usual to be interrupted; nothing else happens to it.

        Raises:
            LocalCloudError: If no such instance runs, or it is no Spot Instance.
        """
        self._ask("POST", f"instances/{instance_id}/recommend-rebalance")

    def drop(self, instance_id: str) -> None:
        """
        Make an instance unreachable without a word, as a network that loses it would.

        All of its processes are stopped (SIGSTOP), its dead-man's switch among them. On loopback this is the closest:
        nobody on the instance answers, and no connection is reset. Other than with a lost network the kernel still
        acknowledges what is sent, as long as buffers have room. EC2 goes on to say running.

        Raises:
            LocalCloudError: If no such instance runs.
        """
        self._ask("POST", f"instances/{instance_id}/drop")

    def set_faults(self, faults: Faults) -> None:
        """Put *faults* in force, instead of those that were; `Faults()` ends them all."""
        self._ask("PUT", "faults", faults.to_json())

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return ask(self.endpoint, method, path, body, access_key=self.access_key)


def ask(endpoint: str, method: str, path: str, body: Any = None, *, access_key: str) -> Any:
    """
    Send the local cloud at *endpoint* a request that AWS does not have, and return its answer.

    Raises:
        LocalCloudError: If the cloud refuses it; says why.
    """
    data = None if body is None else json.dumps(body).encode()
    # The address is the cloud's own, so the scheme cannot be a surprise.
    request = urllib.request.Request(  # noqa: S310
        endpoint + OWN_PATH + path, data=data, method=method, headers={"Authorization": f"Bearer {access_key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        # What the door refuses is no JSON.
        raise LocalCloudError(json.loads(text)["error"] if text.startswith("{") else text.strip()) from error


def client(service: str, *, endpoint: str, region: str, access_key: str) -> Any:
    """Make a boto3 client of *service* for the local cloud at *endpoint*, with a key that is good for nothing else."""
    credentials = fake_credentials(endpoint, access_key=access_key)
    make: Any = boto3.session.Session().client  # its stubs want the name of the service as a literal
    return make(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
        config=Config(
            retries={"total_max_attempts": 3},
            s3={"addressing_style": "path"},
            inject_host_prefix=False,  # else TestState goes to a host "sync-localhost"
        ),
    )
