"""
One instance as processes: its agent, in place of the container, and its dead-man's switch.

As on EC2, the two are independent: when the agent ends, instance and switch run on, and a switch that ends is started
again, as systemd would do. When the instance ends, all of its processes end.

An instance whose user data configures the ECS container agent has that one in place of the training agent. It runs the
containers of the tasks that ECS gives to the instance.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from horovod_local.instances import opt_ml
from horovod_local.instances.container import CONTAINER_VARIABLE, ContainerHost
from horovod_local.instances.container_agent import CONFIG_FILE, ContainerAgent
from horovod_local.instances.instance_metadata import InstanceMetadata
from horovod_local.instances.processes import (
    CLOUD_VARIABLE,
    cloud_environment,
    kill_processes_with,
    stop_processes_with,
    without_aws,
)
from horovod_local.instances.user_data import variables_in
from horovod_local.shared.access_keys import ACCESS_KEYS
from horovod_node import contract

GRACE_SECONDS: Final = 5.0
"""
Time between SIGTERM and SIGKILL, enough for an agent's last lines on a loaded machine. EC2 gives an instance longer,
but kills its processes in the end, too.
"""
CONTROL_PATH: Final = "/_horovod_local/"
"""Path prefix of the control API; no bucket's name begins with an underscore."""
METADATA_PATH: Final = f"{CONTROL_PATH}metadata/"
"""Path prefix of instance metadata, followed by the instance's id; on EC2, 169.254.169.254 serves it."""
TASK_PATH: Final = f"{CONTROL_PATH}task/"
"""Path prefix of ECS's task credentials and metadata, followed by the instance's id; on EC2, at 169.254.170.2."""
LEAVE_UNIT: Final = "/etc/systemd/system/cdk-horovod-part-over.path"
"""Unit of user data that names the file by which a task asks its instance to leave."""
RESTART_SECONDS: Final = 1.0
"""Pause before a switch that ended is started again."""
POWER_KEY_VARIABLE: Final = "CDK_HOROVOD_LOCAL_POWER_KEY"
"""Environment variable of the switch: the access key with which `shutdown` ends the instance, whatever its role."""

_COMMANDS: Final = Path(__file__).with_name("machine_commands")
"""Replacements of commands that an instance runs and this machine must not."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LocalInstance:
    """
    One running instance.

    Args:
        instance_id: Its id in EC2.
        pid: Process id, and process group, of the agent; None if the instance runs none, or it has ended.
        switch_pid: Process id, and process group, of the dead-man's switch; None if it does not run.
        address: Its IP address on this machine.
        instance_type: Instance type, such as `g5.xlarge`.
        gpus: Its weight in the group's capacity.
        market: `on-demand` or `spot`.
        zone: Availability Zone, such as `eu-west-1a`.
        group: Name of its Auto Scaling group.
        log: File with the agent's output; `switch.log` beside it has the switch's.
        interruption: Newest interruption notice, one of the contract's `INTERRUPTIONS`; empty if there is none.
        dropped: Whether `LocalCloud.drop` has stopped its processes.
    """

    instance_id: str
    pid: int | None = None
    switch_pid: int | None = None
    address: str
    instance_type: str
    gpus: int
    market: str
    zone: str
    group: str
    log: str
    interruption: str = ""
    dropped: bool = False


class Machine:
    """
    The processes of one instance, from its boot to its end.

    Args:
        facts: Description of the instance, without process ids.
        account: Account of the instance.
        region: Region of the instance.
        endpoint: URL of the local cloud.
        access_key: Access key of its instance profile's role; None if it has no profile, and so no credentials.
        own_opt_ml: Whether the instance's folder is mounted at `/opt/ml`; otherwise the agent gets its path.
    """

    def __init__(
        self,
        *,
        facts: LocalInstance,
        account: str,
        region: str,
        endpoint: str,
        access_key: str | None,
        own_opt_ml: bool,
    ) -> None:
        self.account = account
        self.region = region
        self.metadata = InstanceMetadata.of(facts, region=region)
        """Its instance metadata."""
        self._facts = facts
        self._interrupted_at: float | None = None
        self._endpoint = endpoint
        self._power_key = ACCESS_KEYS.issue(f"power-{facts.instance_id}")
        self._access_key = access_key
        self._own_opt_ml = own_opt_ml
        self._folder = Path(facts.log).parent
        self._environment: dict[str, str] = {}
        self._agent: subprocess.Popen[bytes] | None = None
        self._switch: subprocess.Popen[bytes] | None = None
        self._leave: subprocess.Popen[bytes] | None = None
        self._container_agent: ContainerAgent | None = None
        self._part_is_over = False
        self._leave_file: Path | None = None
        self._switch_due: float | None = None
        self._kill_at = 0.0

    @property
    def facts(self) -> LocalInstance:
        """The present description of the instance."""
        pid = self._container_agent.node_pid if self._container_agent is not None else _pid(self._agent)
        return replace(self._facts, pid=pid, switch_pid=_pid(self._switch))

    def boot(self, *, files: Mapping[str, str], python: str, with_agent: bool, with_switch: bool) -> None:
        """
        Start what the instance's user data starts.

        Args:
            files: The files that the user data writes.
            python: Python interpreter of the agent.
            with_agent: Whether to start the agent. The ECS container agent, which starts agents later, decides itself.
            with_switch: Whether to start the switch, if *files* has one.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        node, ecs = variables_in(files, contract.NODE_ENV_FILE), variables_in(files, CONFIG_FILE)
        if node is None and ecs is None:
            _log.info("%s writes no %s: it runs nothing", self._facts.instance_id, contract.NODE_ENV_FILE)
            return
        inherited, facts = without_aws(os.environ), self._facts_environment(booted_at=time.time())
        self._environment = {**inherited, **(node or {}), **facts, **self._outside_containers(facts)}
        if node is not None and with_switch and contract.SWITCH_FILE in files:
            self._switch_script.write_text(files[contract.SWITCH_FILE], encoding="utf-8")
            self._start_switch()
        if ecs is not None:
            self._start_container_agent(ecs, files=files, node=node, environment={**inherited, **facts}, python=python)
        elif with_agent:
            self._agent = self._start_agent([python, "-m", "horovod_node"])

    def answer_task(self, path: str) -> tuple[int, Any]:
        """Answer a container's request for credentials or metadata of its task, by HTTP status and JSON."""
        return self._container_agent.answer(path) if self._container_agent is not None else (404, {})

    def recommend_rebalance(self) -> None:
        """Give the instance a rebalance recommendation."""
        self.metadata.recommend_rebalance()
        if not self._facts.interruption:
            self._facts = replace(self._facts, interruption=contract.INTERRUPTION_REBALANCE)

    def interrupt(self, *, notice_seconds: float) -> None:
        """Give the instance an interruption notice; `is_interruption_due` is true after *notice_seconds*."""
        self.metadata.announce_termination(time.time() + notice_seconds)
        self._interrupted_at = time.monotonic() + notice_seconds
        self._facts = replace(self._facts, interruption=contract.INTERRUPTION_NOTICE)

    def is_interruption_due(self, *, now: float) -> bool:
        """Whether the instance was interrupted and its notice is over."""
        return self._interrupted_at is not None and now >= self._interrupted_at

    def drop(self) -> None:
        """Stop all processes of the instance, which then no longer answer, and leave their connections open."""
        self._facts = replace(self._facts, dropped=True)
        if self._container_agent is not None:
            self._container_agent.dropped = True
        stop_processes_with(contract.ENV_NODE_ID, self._facts.instance_id)

    def supervise(self, *, now: float) -> None:
        """Kill what an ended agent has left in its container, and restart a switch that has ended."""
        if self._agent is not None and self._agent.poll() is not None:
            _log.info("agent of %s exited with %s", self._facts.instance_id, self._agent.returncode)
            _kill_group(self._agent)
            kill_processes_with(CONTAINER_VARIABLE, self._facts.instance_id)
            self._part_is_over = self._agent.returncode == contract.EXIT_PART_OVER
            self._agent = None
        if self._leave_file is not None and self._leave_file.exists():
            self._part_is_over = True
        if self._part_is_over and self._leave is None and self._switch_script.exists():
            # On a real instance the unit cdk-horovod-part-over.service does this.
            self._leave = self._run_switch("leave")
        if self._switch is not None and self._switch.poll() is not None:
            _log.info("switch of %s exited with %s", self._facts.instance_id, self._switch.returncode)
            self._switch, self._switch_due = None, now + RESTART_SECONDS
        if self._switch_due is not None and now >= self._switch_due and not self._facts.dropped:
            self._start_switch()

    def shut_down(self) -> None:
        """Send SIGTERM to the instance's processes; `is_off` later kills those that remain."""
        # Not to the agent's process group: Docker, too, signals only a container's first process.
        for process in (self._agent, self._switch, self._leave):
            if process is not None:
                process.terminate()
        if self._container_agent is not None:
            self._container_agent.stop()
        self._switch_due = None
        self._kill_at = time.monotonic() + GRACE_SECONDS

    def is_off(self) -> bool:
        """Whether the instance's processes have ended; kills them when `GRACE_SECONDS` are over."""
        processes = (self._agent, self._switch, self._leave)
        running = any(process is not None and process.poll() is None for process in processes)
        if self._container_agent is not None:
            running = not self._container_agent.is_off() or running
        if running and time.monotonic() < self._kill_at:
            return False
        self.cut_power()
        return True

    def cut_power(self) -> None:
        """Kill all processes of the instance, in whatever session or process group they are."""
        if not self._environment:
            return
        if self._container_agent is not None:
            self._container_agent.cut_power()
        for process in (self._agent, self._switch, self._leave):
            if process is not None:
                _kill_group(process)
        kill_processes_with(contract.ENV_NODE_ID, self._facts.instance_id)
        for process in (self._agent, self._switch, self._leave):
            if process is not None:
                process.wait()
        if self._container_agent is not None:
            self._container_agent.reap()

    @property
    def _switch_script(self) -> Path:
        return self._folder / Path(contract.SWITCH_FILE).name

    def _start_switch(self) -> None:
        self._switch_due = None
        self._switch = self._run_switch()

    def _run_switch(self, *words: str) -> subprocess.Popen[bytes]:
        path = [str(_COMMANDS), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        region = self._environment.get("AWS_REGION", self.region)
        return self._start(
            ["bash", str(self._switch_script), *words],
            log=self._folder / "switch.log",
            PATH=os.pathsep.join(path),
            **{POWER_KEY_VARIABLE: self._power_key},
            # The AWS CLI here is version 1, which reads the Region from this variable only.
            AWS_DEFAULT_REGION=region,
        )

    def _start_agent(self, command: list[str]) -> subprocess.Popen[bytes]:
        container = {CONTAINER_VARIABLE: self._facts.instance_id}
        log = Path(self._facts.log)
        ml_root = self._folder / "ml"
        ml_root.mkdir()
        if self._own_opt_ml:
            return self._start(opt_ml.command(ml_root, command), log=log, **container)
        return self._start(command, log=log, **container, **{contract.ENV_ML_ROOT: str(ml_root)})

    def _start_container_agent(
        self,
        config: Mapping[str, str],
        *,
        files: Mapping[str, str],
        node: Mapping[str, str] | None,
        environment: Mapping[str, str],
        python: str,
    ) -> None:
        facts = self._facts
        if self._access_key is None:
            _log.warning("%s has no instance profile: its ECS container agent cannot register", facts.instance_id)
            return
        host = ContainerHost(
            folder=self._folder,
            log=Path(facts.log),
            node=node,
            environment=environment,
            access_key=self._access_key,
            endpoint=self._endpoint,
            task_endpoint=f"{self._endpoint}{TASK_PATH}{facts.instance_id}",
            python=python,
            own_mounts=self._own_opt_ml,
        )
        for path, text in files.items():
            host.path(path).parent.mkdir(parents=True, exist_ok=True)
            host.path(path).write_text(text, encoding="utf-8")
        watched = re.search(r"^PathExists=(.+)$", files.get(LEAVE_UNIT, ""), re.MULTILINE)
        if watched is not None:
            self._leave_file = host.path(watched[1])
        self._container_agent = ContainerAgent(
            config=config,
            host=host,
            instance_id=facts.instance_id,
            instance_type=facts.instance_type,
            region=self.region,
            make_client=self._ecs_client,
        )
        self._container_agent.start()

    def _ecs_client(self) -> Any:
        make: Any = boto3.session.Session().client  # boto3's type stubs accept only literal service names
        return make(
            "ecs",
            endpoint_url=self._endpoint,
            region_name=self.region,
            aws_access_key_id=self._access_key,
            aws_secret_access_key="local",  # noqa: S106 - the id of the key is the secret
            config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )

    def _start(self, command: list[str], *, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env={**self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _facts_environment(self, *, booted_at: float) -> dict[str, str]:
        """Return the facts of the instance that its processes find in their environment, and on EC2 elsewhere."""
        facts = self._facts
        return {
            contract.ENV_NODE_ID: facts.instance_id,
            contract.ENV_NODE_ADDRESS: facts.address,
            contract.ENV_NODE_INTERFACE: "lo",
            contract.ENV_NODE_GPUS: str(facts.gpus),
            contract.ENV_NODE_TYPE: facts.instance_type,
            contract.ENV_NODE_ZONE: facts.zone,
            contract.ENV_NODE_MARKET: facts.market,
            contract.ENV_BOOTED_AT: str(int(booted_at)),
            # The agent also prints the log lines that it ships: here they are read from its log file.
            contract.ENV_ECHO: "1",
            # The agent polls it for interruption notices. The SDKs do not use it: they have credentials.
            contract.ENV_METADATA_ENDPOINT: f"{self._endpoint}{METADATA_PATH}{facts.instance_id}",
            CLOUD_VARIABLE: self._endpoint,
        }

    def _outside_containers(self, facts: Mapping[str, str]) -> dict[str, str]:
        """Return further variables of the switch, and of an agent that ECS does not start."""
        return {
            # Its facts are in the environment, whatever engine the user data names.
            contract.ENV_ENGINE: contract.ENGINE_LOCAL,
            # No image is pulled.
            **dict.fromkeys((contract.ENV_PULL_BEGAN_AT, contract.ENV_PULLED_AT), facts[contract.ENV_BOOTED_AT]),
            **cloud_environment(self._endpoint, access_key=self._access_key),
        }


def _pid(process: subprocess.Popen[bytes] | None) -> int | None:
    return None if process is None else process.pid


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
