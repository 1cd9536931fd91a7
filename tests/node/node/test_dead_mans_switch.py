"""The dead-man's switch, run as the script that it is: the real AWS CLI, an emulated AWS, leases of seconds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs

import pytest

from horovod_node import contract
from support.node.emulated_aws import REGION, Aws
from support.synthesis import REPOSITORY
from support.waiting import SECONDS, eventually

SCRIPT = REPOSITORY / "constructs" / "cdk_horovod" / "engines" / "dead_mans_switch.sh"
INSTANCE = "i-0123456789abcdef0"
TERMINATE = {
    "Action": "TerminateInstanceInAutoScalingGroup",
    "InstanceId": INSTANCE,
    "ShouldDecrementDesiredCapacity": "true",
}
WATCHES = "cdk-horovod: dead-man's switch: watches over run run-1"
TERMINATES = f"cdk-horovod: dead-man's switch: Auto Scaling terminates {INSTANCE}"
SHUTDOWN = "shutdown -h now"


class AutoScaling:
    """The part of Auto Scaling that the switch calls, over HTTP; keeps what it was told, and can refuse it."""

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []
        self.refusals: list[str] = []
        """Error codes of the next answers."""
        self.message = "No."
        """Of those answers."""
        scaling = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                scaling.calls.append({name: values[0] for name, values in body.items() if name != "Version"})
                refusal = scaling.refusals.pop(0) if scaling.refusals else None
                result = "TerminateInstanceInAutoScalingGroupResult"
                answer = f"<Answer><{result}><Activity><Progress>0</Progress></Activity></{result}></Answer>"
                if refusal:
                    error = f"<Code>{refusal}</Code><Message>{scaling.message}</Message>"
                    answer = f"<ErrorResponse><Error>{error}</Error></ErrorResponse>"
                self.send_response(400 if refusal else 200)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: ARG002 - the signature is http.server's
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class Switch:
    """One instance's switch, a process that may not write to any file; `shutdown` only says that it was called."""

    def __init__(
        self,
        script: Path,
        *,
        words: tuple[str, ...],
        shutdown: str,
        docker: str,
        folder: Path,
        environment: dict[str, str],
    ) -> None:
        self.lines: list[str] = []
        programs = folder / "programs"
        programs.mkdir()
        program = programs / "shutdown"
        program.write_text(f'#!/bin/bash\necho "shutdown $*"\n{shutdown}\n')
        program.chmod(0o755)
        container = programs / "docker"
        container.write_text(f"#!/bin/bash\n{docker}\n")
        container.chmod(0o755)
        # Nowhere on this path is a real shutdown.
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
        self.process = subprocess.Popen(
            ["prlimit", "--fsize=0", "bash", str(script), *words],
            env={"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, line: str) -> None:
        """Wait until the switch said *line*."""
        assert eventually(lambda: line in self.lines), self.lines

    def until_out(self) -> list[str]:
        """Wait until the switch has taken its instance out, and give all that it said."""
        assert self.process.wait(timeout=SECONDS) == 0, self.lines
        self._reader.join(timeout=SECONDS)
        return self.lines

    def close(self) -> None:
        """End it, and the calls that it has under way."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join(timeout=SECONDS)

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line.rstrip("\n"))


@pytest.fixture
def scaling() -> Iterator[AutoScaling]:
    """Serve Auto Scaling."""
    with closing(AutoScaling()) as server:
        yield server


class Instance:
    """An instance with a switch that is not set yet."""

    def __init__(self, *, aws: Aws, scaling: AutoScaling, folder: Path) -> None:
        self.script = folder / "switch.sh"
        self.script.write_bytes(SCRIPT.read_bytes())
        self.shutdown = "exit 0"
        self.docker = "exit 1"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": aws.endpoint,
            "AWS_ENDPOINT_URL_AUTO_SCALING": scaling.endpoint,
            contract.ENV_LEDGER_TABLE: aws.table,
            contract.ENV_FLEET: "fleet",
            contract.ENV_LEASE_SECONDS: "3",
            contract.ENV_NODE_ID: INSTANCE,
        }
        self._folder = folder
        self._switch: Switch | None = None

    def start(self, *words: str, **environment: str) -> Switch:
        """Set the switch, or call its script with *words*."""
        self._switch = Switch(
            self.script,
            words=words,
            shutdown=self.shutdown,
            docker=self.docker,
            folder=self._folder,
            environment=self.environment | environment,
        )
        return self._switch

    def close(self) -> None:
        """Leave nothing behind."""
        if self._switch is not None:
            self._switch.close()


@pytest.fixture
def instance(aws: Aws, scaling: AutoScaling, tmp_path: Path) -> Iterator[Instance]:
    """An instance of a fleet that nobody holds."""
    with closing(Instance(aws=aws, scaling=scaling, folder=tmp_path)) as made:
        yield made


def reason(lines: list[str]) -> str:
    """Find why the switch took its instance out."""
    start = "cdk-horovod: dead-man's switch: this instance goes: "
    (found,) = [line.removeprefix(start) for line in lines if line.startswith(start)]
    return found


def test_instance_stays_while_its_run_holds_the_fleet(aws: Aws, instance: Instance, scaling: AutoScaling) -> None:
    """A valid lease is all that it takes, however long."""
    # GIVEN
    aws.put_lease("fleet", run="run-1")
    switch = instance.start()
    switch.until(WATCHES)
    # WHEN more than twice the lease's time passes
    time.sleep(7)
    # THEN
    assert [switch.process.poll(), switch.lines, scaling.calls] == [None, [WATCHES], []]


def test_instance_goes_when_the_lease_expired(aws: Aws, instance: Instance, scaling: AutoScaling) -> None:
    """Auto Scaling terminates it for good, and it shuts down; that its script's file is lost changes nothing."""
    # GIVEN a lease that nobody renews, and a script whose file is lost
    aws.put_lease("fleet", run="run-1")
    switch = instance.start()
    switch.until(WATCHES)
    instance.script.write_text("")
    # WHEN
    aws.put_lease("fleet", run="run-1", seconds=0)
    lines = switch.until_out()
    # THEN
    assert reason(lines).startswith("it has seen no valid lease of run-1 for ")
    assert lines[-2:] == [TERMINATES, SHUTDOWN]
    assert scaling.calls == [TERMINATE]


@pytest.mark.slow
@pytest.mark.parametrize("holder", ["run-2", contract.CLEAN_UP, contract.REAPER])
def test_lease_of_another_holder_is_none(aws: Aws, instance: Instance, holder: str) -> None:
    """A node of an earlier run must not live on a later one's lease, nor on that of what empties the fleet."""
    # GIVEN
    aws.put_lease("fleet", run="run-1")
    switch = instance.start()
    switch.until(WATCHES)
    # WHEN
    aws.put_lease("fleet", run=holder)
    # THEN
    assert reason(switch.until_out()).startswith("it has seen no valid lease of run-1 for ")


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["lease", "table"])
def test_instance_goes_when_the_ledger_has_nothing_for_it(aws: Aws, instance: Instance, lost: str) -> None:
    """A lease that was freed, and a ledger that refuses, show no valid lease."""
    # GIVEN
    aws.put_lease("fleet", run="run-1")
    switch = instance.start()
    switch.until(WATCHES)
    # WHEN
    if lost == "lease":
        aws.delete(contract.lease_key("fleet"))
    else:
        aws.client("dynamodb").delete_table(TableName=aws.table)
    # THEN
    assert reason(switch.until_out()).startswith("it has seen no valid lease of run-1 for ")


@pytest.mark.slow
@pytest.mark.parametrize("holder", [None, contract.CLEAN_UP])
def test_instance_that_boots_without_a_run_goes(aws: Aws, instance: Instance, holder: str | None) -> None:
    """A fleet that nobody holds, or that is being emptied, has no work for it."""
    # GIVEN
    if holder:
        aws.put_lease("fleet", run=holder)
    # WHEN
    lines = instance.start().until_out()
    # THEN
    assert reason(lines).startswith("it has seen no valid lease of any run for ")
    assert lines[-1] == SHUTDOWN


def test_instance_goes_when_the_ledger_cannot_be_reached(instance: Instance, scaling: AutoScaling) -> None:
    """Nobody at the other end is no valid lease."""
    # GIVEN a port at which nobody listens
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        # WHEN
        switch = instance.start(AWS_ENDPOINT_URL_DYNAMODB=f"http://127.0.0.1:{closed.getsockname()[1]}")
        lines = switch.until_out()
    # THEN
    assert reason(lines).startswith("it has seen no valid lease of any run for ")
    assert scaling.calls == [TERMINATE]


@pytest.mark.slow
def test_ledger_that_hangs_does_not_hang_the_switch(instance: Instance, scaling: AutoScaling) -> None:
    """A connection on which nothing ever comes back is cut."""
    # GIVEN a port that takes connections and answers nothing
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # WHEN
        switch = instance.start(AWS_ENDPOINT_URL_DYNAMODB=f"http://127.0.0.1:{silent.getsockname()[1]}")
        lines = switch.until_out()
    # THEN
    assert reason(lines).startswith("it has seen no valid lease of any run for ")
    assert scaling.calls == [TERMINATE]


@pytest.mark.slow
def test_instance_goes_at_the_runs_hard_maximum(aws: Aws, instance: Instance, scaling: AutoScaling) -> None:
    """However valid the lease: it holds nothing after `ends_by`."""
    # GIVEN
    aws.put_lease("fleet", run="run-1", ends_by=int(time.time()) - 1)
    # WHEN
    lines = instance.start(**{contract.ENV_LEASE_SECONDS: "60"}).until_out()
    # THEN
    assert reason(lines) == "run run-1 has reached its hard maximum"
    assert lines[-1] == SHUTDOWN
    assert scaling.calls == [TERMINATE]


@pytest.mark.slow
def test_hard_maximum_holds_without_the_ledger(aws: Aws, instance: Instance) -> None:
    """What the switch has read once it does not forget."""
    # GIVEN
    aws.put_lease("fleet", run="run-1", ends_by=int(time.time()) + 20)
    switch = instance.start(**{contract.ENV_LEASE_SECONDS: "60"})
    switch.until(WATCHES)
    # WHEN
    aws.client("dynamodb").delete_table(TableName=aws.table)
    # THEN
    assert reason(switch.until_out()) == "run run-1 has reached its hard maximum"


def test_instance_goes_at_the_runs_cost_ceiling(aws: Aws, instance: Instance, scaling: AutoScaling) -> None:
    """The ceiling comes while the run is on its way; its time may have a fraction."""
    # GIVEN
    aws.put_lease("fleet", run="run-1")
    switch = instance.start()
    switch.until(WATCHES)
    # WHEN
    aws.put_ceiling("run-1", billed_seconds=100, seconds_left=-0.5)
    lines = switch.until_out()
    # THEN
    assert reason(lines) == "run run-1 has reached its cost ceiling"
    assert lines[-1] == SHUTDOWN
    assert scaling.calls == [TERMINATE]


@pytest.mark.slow
def test_auto_scaling_is_asked_again(instance: Instance, scaling: AutoScaling) -> None:
    """A refusal that may pass does not lead to a shutdown that Auto Scaling would answer with a new instance."""
    # GIVEN
    scaling.refusals = ["ScalingActivityInProgress", "ScalingActivityInProgress"]
    # WHEN
    lines = instance.start().until_out()
    # THEN
    assert [line.split(": ")[2] for line in lines if ": try " in line] == ["try 1 of 10", "try 2 of 10"]
    assert lines[-2:] == [TERMINATES, SHUTDOWN]
    assert scaling.calls == [TERMINATE] * 3


@pytest.mark.slow
def test_instance_shuts_down_whatever_auto_scaling_says(instance: Instance, scaling: AutoScaling) -> None:
    """After ten tries it goes without Auto Scaling: running is dearer than being replaced."""
    # GIVEN
    scaling.refusals = ["AccessDenied"] * 10
    # WHEN
    lines = instance.start().until_out()
    # THEN
    assert lines[-1] == SHUTDOWN
    assert scaling.calls == [TERMINATE] * 10


@pytest.mark.slow
def test_final_refusal_is_not_tried_again(instance: Instance, scaling: AutoScaling) -> None:
    """An instance outside of any group, or a group at its minimum: the answer stays the same, so it shuts down."""
    # GIVEN
    scaling.refusals = ["ValidationError"]
    # WHEN
    lines = instance.start().until_out()
    # THEN
    assert lines[-1] == SHUTDOWN
    assert scaling.calls == [TERMINATE]


MIN_SIZE = (
    "Currently, desiredSize equals minSize (0). Terminating instance without replacement will violate group's min size "
    "constraint."
)


@pytest.mark.parametrize("again", [[], ["ScalingActivityInProgress"]], ids=["taken", "refused"])
def test_instance_that_weighs_more_than_is_wanted_goes_all_the_same(
    instance: Instance, scaling: AutoScaling, again: list[str]
) -> None:
    """Where the capacity cannot become smaller it stays as it is; if that is refused, too, it tries again."""
    # GIVEN
    scaling.refusals = ["ValidationError", *again]
    scaling.message = MIN_SIZE
    # WHEN
    lines = instance.start().until_out()
    # THEN
    assert lines[-1] == SHUTDOWN
    keeping = {**TERMINATE, "ShouldDecrementDesiredCapacity": "false"}
    assert scaling.calls == [TERMINATE, keeping, *([TERMINATE] if again else [])]


def test_instance_goes_at_once_when_it_is_told_to(aws: Aws, instance: Instance, scaling: AutoScaling) -> None:
    """A node whose part of the run is over does not wait for its lease to end."""
    # GIVEN a lease that is valid
    aws.put_lease("fleet", run="run-1")
    # WHEN
    lines = instance.start("leave").until_out()
    # THEN
    assert reason(lines) == "its part of the run is over"
    assert lines[-2:] == [TERMINATES, SHUTDOWN]
    assert scaling.calls == [TERMINATE]


@pytest.mark.parametrize(("code", "goes"), [(contract.EXIT_PART_OVER, True), (contract.EXIT_RELEASED, False)])
def test_instance_goes_when_its_agent_says_that_its_part_is_over(
    instance: Instance, scaling: AutoScaling, code: int, goes: bool
) -> None:
    """The container's exit code tells; with any other one the instance stays, under its other guards."""
    # GIVEN a container that ends
    instance.docker = f'[ "$*" = "wait cdk-horovod-node" ] && echo {code}'
    # WHEN
    lines = instance.start("leave-after", "cdk-horovod-node", str(contract.EXIT_PART_OVER)).until_out()
    # THEN
    assert (lines[-2:] == [TERMINATES, SHUTDOWN], scaling.calls == [TERMINATE]) == (goes, goes)
    assert goes or (lines, scaling.calls) == ([], [])


@pytest.mark.slow
def test_shutdown_is_tried_again(instance: Instance, tmp_path: Path) -> None:
    """A machine that refuses to shut down is asked until it does."""
    # GIVEN a shutdown that fails once
    instance.shutdown = f"mkdir {tmp_path}/asked 2>/dev/null || exit 0\nexit 1"
    # WHEN
    lines = instance.start().until_out()
    # THEN
    assert [line for line in lines if "shutdown" in line] == [
        SHUTDOWN,
        "cdk-horovod: dead-man's switch: shutdown failed",
        SHUTDOWN,
    ]


def test_group_wants_one_instance_less(aws: Aws, instance: Instance) -> None:
    """Nothing comes in place of an instance that took itself out, and its group keeps the others."""
    # GIVEN a group of two
    ec2, scaling = aws.client("ec2"), aws.client("autoscaling")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    template = ec2.create_launch_template(
        LaunchTemplateName=aws.table, LaunchTemplateData={"ImageId": image, "InstanceType": "g5.xlarge"}
    )["LaunchTemplate"]["LaunchTemplateId"]
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=aws.table,
        LaunchTemplate={"LaunchTemplateId": template},
        MinSize=0,
        MaxSize=4,
        DesiredCapacity=2,
        AvailabilityZones=[f"{REGION}a"],
    )

    def group() -> tuple[int, list[str]]:
        (found,) = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[aws.table])["AutoScalingGroups"]
        return found["DesiredCapacity"], [each["InstanceId"] for each in found["Instances"]]

    wanted, (first, second) = group()
    # WHEN
    lines = instance.start(AWS_ENDPOINT_URL_AUTO_SCALING=aws.endpoint, **{contract.ENV_NODE_ID: first}).until_out()
    # THEN
    assert lines[-1] == SHUTDOWN
    assert [wanted, group()] == [2, (1, [second])]
