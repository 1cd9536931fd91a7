"""The local cloud as a process: how it starts, answers and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import EndpointConnectionError

from horovod_local.instances.processes import CLOUD_VARIABLE, processes_with
from support.waiting import eventually

STARTER = """
import sys, time
from pathlib import Path
from horovod_local import LocalCloud
cloud = LocalCloud(home=Path(sys.argv[1]), node_python=sys.argv[2])
cloud.start()
autoscaling, ec2 = cloud.client("autoscaling"), cloud.client("ec2")
ec2.create_launch_template(
    LaunchTemplateName="node",
    LaunchTemplateData={"ImageId": "ami-1", "InstanceType": "g5.xlarge", "UserData": sys.argv[3]},
)
autoscaling.create_auto_scaling_group(
    AutoScalingGroupName="fleet", MinSize=0, MaxSize=1, DesiredCapacity=1,
    LaunchTemplate={"LaunchTemplateName": "node"}, AvailabilityZones=["eu-west-1a"],
)
while not cloud.instances():
    time.sleep(0.02)
print(cloud.endpoint, cloud.instances()[0].pid, flush=True)
time.sleep(600)
"""


def test_the_environment_leads_nowhere_else(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in the cloud's environment finds the cloud, and no profile or region of the user's own."""
    # GIVEN
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")

    # WHEN
    environment = cloud.environment()

    # THEN
    assert {name: value for name, value in environment.items() if name.startswith("AWS_")} == {
        "AWS_ENDPOINT_URL": cloud.endpoint,
        "AWS_ACCESS_KEY_ID": cloud.access_key,
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    assert environment["PATH"] == os.environ["PATH"]


def test_a_client_of_no_cloud_gets_no_answer() -> None:
    """The guard of these tests holds: a client that was given no address reaches nothing."""
    # GIVEN
    import boto3

    # WHEN, THEN
    with pytest.raises(EndpointConnectionError):
        boto3.client("s3", region_name="eu-west-1").list_buckets()


def test_only_this_machine_is_served(cloud: Any) -> None:
    """The server listens on loopback alone, and its address says localhost."""
    # GIVEN
    address = urlsplit(cloud.endpoint)
    port = address.port
    assert port is not None
    listening = f"{port:04X}"

    # WHEN
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = {row.split()[1] for row in table if row.split()[1].endswith(f":{listening}") and row.split()[3] == "0A"}

    # THEN
    assert address.hostname == "localhost"
    assert local == {f"0100007F:{listening}"}


def test_the_cloud_dies_with_its_starter(cloud: Any, tmp_path: Path) -> None:
    """Killing the process that started a cloud ends the server and its nodes."""
    # GIVEN
    node = Path(cloud.home) / "node"
    script = "cat > /etc/cdk-horovod/node.env <<END\nTEST_COMMAND=trap '' TERM; sleep 600\nEND\n"
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path), str(node), encoded(script)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    endpoint, pid = starter.stdout.readline().split()
    assert list(processes_with(CLOUD_VARIABLE, endpoint)) != []

    # WHEN
    starter.send_signal(signal.SIGKILL)
    starter.wait()

    # THEN
    def left() -> list[int]:
        return [*processes_with(CLOUD_VARIABLE, endpoint), *([int(pid)] if Path(f"/proc/{pid}").exists() else [])]

    assert eventually(left, lambda pids: not pids) == []
    port = int(endpoint.rpartition(":")[2])
    assert eventually(lambda: refused(port)) is True
    starter.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["deploy", "there-is-none"], "horovod_local: there-is-none holds no manifest.json"),
        (
            ["deploy", "{home}", "--endpoint", "http://localhost:9"],
            "horovod_local: no local cloud answers at http://lo",
        ),
        (
            ["serve", "--port", "{port}", "--home", "{home}"],
            "horovod_local: cannot serve on port {port}: Address already",
        ),
        (["serve", "--port", "0", "--node-python", "nowhere"], "horovod_local: 'node_python' must be a program, got n"),
        (["serve", "--schedule-speed", "0"], "horovod_local: 'schedule_speed' must be more than 0, got 0.0"),
    ],
)
def test_the_command_line_fails_in_one_line(cloud: Any, tmp_path: Path, arguments: list[str], told: str) -> None:
    """What cannot be done is told in one line, with exit code 1."""
    # GIVEN
    template = {"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}}
    (tmp_path / "template.json").write_text(json.dumps(template))
    stack = {"type": "aws:cloudformation:stack", "environment": "aws://unknown-account/unknown-region"}
    artifact = {**stack, "properties": {"templateFile": "template.json"}}
    (tmp_path / "manifest.json").write_text(json.dumps({"artifacts": {"Stack": artifact}}))
    words = {"port": cloud.endpoint.rpartition(":")[2], "home": str(tmp_path)}
    command = [sys.executable, "-m", "horovod_local", *(argument.format(**words) for argument in arguments)]

    # WHEN
    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    # THEN
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(told.format(**words))
    assert ended.stderr.count("\n") == 1


def encoded(script: str) -> str:
    """User data as EC2 takes it."""
    import base64

    return base64.b64encode(script.encode()).decode()


def refused(port: int) -> bool:
    """Whether nothing listens on *port*."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
