"""
Acts the instances: one real agent process group for every instance that an Auto Scaling group has in service.

An instance whose agent ends is an instance that is gone: EC2 says terminated, and its group replaces it while the
desired capacity says so. An instance that EC2 terminates loses its agent, and everything the agent has started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from horovod_local.corrections import launches
from horovod_local.errors import LocalCloudError
from horovod_local.user_data import node_environment
from horovod_node import contract

POLL_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 2.0
"""Between SIGTERM and SIGKILL; EC2 gives an instance longer, but its processes no say in it either."""
CLOUD_VARIABLE: Final = "CDK_HOROVOD_LOCAL_CLOUD"
"""In the environment of every node's processes: the address of the cloud that they belong to."""

_PROCESSES: Final = Path("/proc")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LocalInstance:
    """
    One instance in service.

    Args:
        instance_id: As EC2 names it.
        pid: Of the agent, which leads a process group; none when the user data starts no node.
        address: Its own address on this machine.
        instance_type: Such as `g5.xlarge`.
        gpus: What it counts for in its group's capacity.
        market: `on-demand` or `spot`.
        zone: Such as `eu-west-1a`.
        group: Name of its Auto Scaling group.
        log: File with all that the agent printed.
    """

    instance_id: str
    pid: int | None
    address: str
    instance_type: str
    gpus: int
    market: str
    zone: str
    group: str
    log: str


@dataclass(kw_only=True)
class _Machine:
    """An instance in service, its agent, and where moto keeps it."""

    facts: LocalInstance
    account: str
    region: str
    number: int
    agent: subprocess.Popen[bytes] | None = None
    kill_at: float = field(default=0.0)


class InstanceDriver(threading.Thread):
    """
    Starts and stops agents until `stop` is called.

    Args:
        home: Folder for the instances' files: `instances/<id>/node.log` and the node's `ml` folder.
        endpoint: Address of the local cloud, for the nodes.
        node_python: Interpreter that runs `horovod_node`.
    """

    def __init__(self, *, home: Path, endpoint: str, node_python: str = sys.executable) -> None:
        super().__init__(name="instances", daemon=True)
        self._home = home
        self._endpoint = endpoint
        self._python = node_python
        self._network = _network(endpoint)
        self._machines: dict[str, _Machine] = {}
        self._leaving: list[_Machine] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self._step()
            except Exception:
                # One instance that cannot be acted must not end all the others.
                _log.exception("acting the instances failed; trying again")

    def stop(self) -> None:
        """Terminate every agent, and return when none of their processes is left."""
        self._stopping.set()
        self.join()
        with self._lock:
            for machine in list(self._machines.values()):
                self._dismiss(machine)
            while self._leaving:
                self._finish_leaving()
                time.sleep(POLL_SECONDS / 4)

    def instances(self) -> list[dict[str, Any]]:
        """Describe the instances in service, as JSON."""
        with self._lock:
            return [asdict(machine.facts) for machine in self._machines.values()]

    def lose(self, instance_id: str) -> bool:
        """Take the power from an instance, so that EC2 says terminated; False if no such instance is in service."""
        with self._lock:
            machine = self._machines.pop(instance_id, None)
            if machine is None:
                return False
            _log.info("%s lost", instance_id)
            _kill_everything(machine)
        _terminate(machine)
        return True

    def _step(self) -> None:
        now = time.monotonic()
        in_service = {}
        for account, region, group in _groups():
            launches.pass_time(group, now=now)
            for state in list(group.instance_states):
                if state.lifecycle_state == "InService":
                    in_service[state.instance.id] = (account, region, group, state)
        dead = []
        with self._lock:
            for instance_id, (account, region, group, state) in in_service.items():
                if instance_id not in self._machines:
                    self._machines[instance_id] = self._start(account, region, group, state)
            for instance_id, machine in list(self._machines.items()):
                if instance_id not in in_service:
                    self._dismiss(machine)
                elif machine.agent is not None and machine.agent.poll() is not None:
                    _log.info("agent of %s exited with %s", instance_id, machine.agent.returncode)
                    _kill_everything(machine)
                    del self._machines[instance_id]
                    dead.append(machine)
            self._finish_leaving()
        # Outside the lock: terminating makes the group act, and the group takes its own lock.
        for machine in dead:
            _terminate(machine)

    def _start(self, account: str, region: str, group: Any, state: Any) -> _Machine:
        instance = state.instance
        taken = {machine.number for machine in [*self._machines.values(), *self._leaving]}
        number = next((number for number in range(1, 255) if number not in taken), None)
        if number is None:
            raise LocalCloudError(f"{instance.id} cannot start: this network has room for 254 instances")
        folder = self._home / "instances" / instance.id
        folder.mkdir(parents=True, exist_ok=True)
        facts = LocalInstance(
            instance_id=instance.id,
            pid=None,
            address=f"{self._network}.{number}",
            instance_type=instance.instance_type,
            gpus=launches.weight_of(state),
            market=launches.market_of(instance),
            zone=instance.placement.zone,
            group=group.name,
            log=str(folder / "node.log"),
        )
        node = node_environment(instance.user_data.decode() if instance.user_data else "")
        if node is None:
            _log.info("%s writes no %s: it runs nothing", instance.id, contract.NODE_ENV_FILE)
            return _Machine(facts=facts, account=account, region=region, number=number)
        with Path(facts.log).open("ab") as log:
            agent = subprocess.Popen(
                [self._python, "-m", "horovod_node"],
                cwd=folder,
                env=self._environment(node, facts, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _log.info(
            "%s in service: %s, %s, %s, agent %d", instance.id, facts.instance_type, facts.market, facts.zone, agent.pid
        )
        facts = LocalInstance(**{**asdict(facts), "pid": agent.pid})
        return _Machine(facts=facts, account=account, region=region, number=number, agent=agent)

    def _environment(self, node: Mapping[str, str], facts: LocalInstance, folder: Path) -> dict[str, str]:
        """Give the agent what the instance's boot script gives it, and what instance metadata would have told it."""
        return {
            **without_aws(os.environ),
            **node,
            contract.ENV_ENGINE: contract.ENGINE_LOCAL,
            contract.ENV_ML_ROOT: str(folder / "ml"),
            contract.ENV_NODE_ID: facts.instance_id,
            contract.ENV_NODE_ADDRESS: facts.address,
            contract.ENV_NODE_INTERFACE: "lo",
            contract.ENV_NODE_GPUS: str(facts.gpus),
            contract.ENV_NODE_TYPE: facts.instance_type,
            contract.ENV_NODE_ZONE: facts.zone,
            contract.ENV_NODE_MARKET: facts.market,
            **fake_credentials(self._endpoint),
            CLOUD_VARIABLE: self._endpoint,
        }

    def _dismiss(self, machine: _Machine) -> None:
        """Ask the agent to end; `_finish_leaving` sees to it that it does."""
        del self._machines[machine.facts.instance_id]
        if machine.agent is not None:
            _log.info("%s terminated: stopping agent %d", machine.facts.instance_id, machine.agent.pid)
            # To the agent alone: on EC2 Docker asks nobody but a container's first process either.
            machine.agent.terminate()
            machine.kill_at = time.monotonic() + GRACE_SECONDS
            self._leaving.append(machine)

    def _finish_leaving(self) -> None:
        for machine in list(self._leaving):
            if machine.agent is None or machine.agent.poll() is not None or time.monotonic() >= machine.kill_at:
                _kill_everything(machine)
                self._leaving.remove(machine)


def fake_credentials(endpoint: str) -> dict[str, str]:
    """Name the local cloud, and credentials that are good for nothing else, as AWS's own variables."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
        # A profile of the user's own would bring real credentials and endpoints along.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def without_aws(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out everything that could lead to a real account, or to another local cloud."""
    return {
        name: value for name, value in environment.items() if not name.startswith(("AWS_", "MOTO_", "CDK_HOROVOD_"))
    }


def processes_with(name: str, value: str) -> Iterator[int]:
    """Find the processes that have *name*=*value* in their environment, whatever session they have moved to."""
    wanted = f"{name}={value}".encode()
    for folder in _PROCESSES.glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:
            # Ended meanwhile, or another user's.
            continue


def kill_processes_with(name: str, value: str) -> None:
    """Kill the processes that have *name*=*value* in their environment, and those that they start meanwhile."""
    while found := list(processes_with(name, value)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _groups() -> Iterator[tuple[str, str, Any]]:
    from moto.autoscaling.models import autoscaling_backends

    for account, regions in list(autoscaling_backends.items()):
        for region, backend in list(regions.items()):
            for group in list(backend.autoscaling_groups.values()):
                yield account, region, group


def _terminate(machine: _Machine) -> None:
    from moto.autoscaling.models import autoscaling_backends
    from moto.ec2.models import ec2_backends

    instance_id = machine.facts.instance_id
    ec2_backends[machine.account][machine.region].terminate_instances([instance_id])
    autoscaling_backends[machine.account][machine.region].notify_terminate_instances([instance_id])


def _kill_everything(machine: _Machine) -> None:
    """Leave nothing of a machine: its agent's group, and what has left the group but was started on the machine."""
    if machine.agent is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(machine.agent.pid, signal.SIGKILL)
    kill_processes_with(contract.ENV_NODE_ID, machine.facts.instance_id)
    machine.agent.wait()


def _network(endpoint: str) -> str:
    """
    Choose the first three numbers of the nodes' addresses from the cloud's port.

    Two clouds on one machine have two ports, so their nodes never meet, although all serve the same fixed port.
    """
    port = int(endpoint.rpartition(":")[2])
    return f"127.{port >> 8}.{port & 255}"
