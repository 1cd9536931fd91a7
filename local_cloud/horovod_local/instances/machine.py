"""
One instance, acted by processes: the agent in the place of its container, and its dead-man's switch.

The two do not depend on each other, as on EC2: a container that ends leaves the instance and its switch running, and a
switch that ends is started again, as systemd would. When the instance goes, everything on it goes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from horovod_local.instances import opt_ml
from horovod_local.instances.instance_metadata import InstanceMetadata
from horovod_local.instances.processes import (
    CLOUD_VARIABLE,
    fake_credentials,
    kill_processes_with,
    stop_processes_with,
    without_aws,
)
from horovod_local.instances.user_data import node_environment
from horovod_local.shared.access_keys import ACCESS_KEYS
from horovod_node import contract

GRACE_SECONDS: Final = 5.0
"""
Between SIGTERM and SIGKILL: enough for an agent's last lines on a loaded machine. EC2 gives an instance longer, but its
processes no say in it either.
"""
OWN_PATH: Final = "/_horovod_local/"
"""Requests under it are not for AWS; an underscore cannot begin a bucket's name."""
METADATA_PATH: Final = f"{OWN_PATH}metadata/"
"""Below it and an instance's id is what 169.254.169.254 serves on EC2."""
RESTART_SECONDS: Final = 1.0
"""Before a switch that ended is started again."""
POWER_KEY_VARIABLE: Final = "CDK_HOROVOD_LOCAL_POWER_KEY"
"""In the environment of the switch: the key with which `shutdown` powers the instance off, whatever role it has."""
CONTAINER_VARIABLE: Final = "CDK_HOROVOD_LOCAL_CONTAINER"
"""In the environment of the agent and of all that it starts, with the instance's id: what ends with the agent."""

_COMMANDS: Final = Path(__file__).with_name("machine_commands")
"""Programs of an instance that this machine must not run, or runs otherwise."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LocalInstance:
    """
    One instance that runs.

    Args:
        instance_id: As EC2 names it.
        pid: Of the agent, which leads a process group; none when the user data starts no node, and when it has ended.
        switch_pid: Of the dead-man's switch, a process group of its own; none when none runs.
        address: Its own address on this machine.
        instance_type: Such as `g5.xlarge`.
        gpus: What it counts for in its group's capacity.
        market: `on-demand` or `spot`.
        zone: Such as `eu-west-1a`.
        group: Name of its Auto Scaling group.
        log: File with all that the agent printed; what the switch printed is in `switch.log` beside it.
        interruption: Newest notice of an interruption, one of the contract's `INTERRUPTIONS`; empty if there is none.
        dropped: Whether its processes were stopped, as if the network had lost it.
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
        facts: What is known of the instance; its processes are added when they run.
        account: Of the instance.
        region: Of the instance.
        number: Last number of its address.
        endpoint: Address of the local cloud.
        access_key: Of the role in the instance's profile; none if it has no profile, and so no credentials.
        own_opt_ml: Whether the agent gets the instance's folder as `/opt/ml`, or is told where it is.
    """

    def __init__(
        self,
        *,
        facts: LocalInstance,
        account: str,
        region: str,
        number: int,
        endpoint: str,
        access_key: str | None,
        own_opt_ml: bool,
    ) -> None:
        self.account = account
        self.region = region
        self.number = number
        self.metadata = InstanceMetadata.of(facts, region=region)
        """What the instance is told about itself."""
        self._facts = facts
        self._taken_back_at: float | None = None
        self._endpoint = endpoint
        self._power_key = ACCESS_KEYS.issue(f"power-{facts.instance_id}")
        self._access_key = access_key
        self._own_opt_ml = own_opt_ml
        self._folder = Path(facts.log).parent
        self._environment: dict[str, str] = {}
        self._agent: subprocess.Popen[bytes] | None = None
        self._switch: subprocess.Popen[bytes] | None = None
        self._leaving: subprocess.Popen[bytes] | None = None
        self._switch_due: float | None = None
        self._kill_at = 0.0

    @property
    def facts(self) -> LocalInstance:
        """The instance as it is now."""
        return replace(self._facts, pid=_pid(self._agent), switch_pid=_pid(self._switch))

    def boot(self, *, files: Mapping[str, str], agent: str | None, with_switch: bool) -> None:
        """
        Start what the instance's user data starts.

        Args:
            files: The files that the user data writes.
            agent: Interpreter that runs the agent; none: it is never started.
            with_switch: Whether the switch is started, if *files* hold one.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        node = node_environment(files)
        if node is None:
            _log.info("%s writes no %s: it runs nothing", self._facts.instance_id, contract.NODE_ENV_FILE)
            return
        self._environment = self._machine_environment(node, booted_at=time.time())
        if with_switch and contract.SWITCH_FILE in files:
            self._switch_script.write_text(files[contract.SWITCH_FILE], encoding="utf-8")
            self._start_switch()
        if agent is not None:
            self._agent = self._start_agent([agent, "-m", "horovod_node"])

    def recommend_rebalance(self) -> None:
        """Tell the instance that it is more likely than usual to be interrupted."""
        self.metadata.recommend_rebalance()
        if not self._facts.interruption:
            self._facts = replace(self._facts, interruption=contract.INTERRUPTION_REBALANCE)

    def interrupt(self, *, notice_seconds: float) -> None:
        """Tell the instance that EC2 takes it back in *notice_seconds*; then `is_taken_back` says so."""
        self.metadata.announce_termination(time.time() + notice_seconds)
        self._taken_back_at = time.monotonic() + notice_seconds
        self._facts = replace(self._facts, interruption=contract.INTERRUPTION_NOTICE)

    def is_taken_back(self, *, now: float) -> bool:
        """Whether the time of an interruption has come."""
        return self._taken_back_at is not None and now >= self._taken_back_at

    def drop(self) -> None:
        """Stop all that runs on the instance, which answers nobody any more and breaks no connection."""
        self._facts = replace(self._facts, dropped=True)
        stop_processes_with(contract.ENV_NODE_ID, self._facts.instance_id)

    def look_after(self, *, now: float) -> None:
        """Take away what a dead agent leaves in its container, and start a switch that ended anew."""
        if self._agent is not None and self._agent.poll() is not None:
            _log.info("agent of %s exited with %s", self._facts.instance_id, self._agent.returncode)
            _kill_group(self._agent)
            kill_processes_with(CONTAINER_VARIABLE, self._facts.instance_id)
            if self._agent.returncode == contract.EXIT_PART_OVER and self._switch_script.exists():
                # What the instance's unit does that waits for the container.
                self._leaving = self._run_switch("leave")
            self._agent = None
        if self._switch is not None and self._switch.poll() is not None:
            _log.info("switch of %s exited with %s", self._facts.instance_id, self._switch.returncode)
            self._switch, self._switch_due = None, now + RESTART_SECONDS
        if self._switch_due is not None and now >= self._switch_due and not self._facts.dropped:
            self._start_switch()

    def shut_down(self) -> None:
        """Ask the instance's processes to end; `is_off` sees to it that they do."""
        # To the agent alone and not its group: on EC2 Docker asks nobody but a container's first process either.
        for process in (self._agent, self._switch, self._leaving):
            if process is not None:
                process.terminate()
        self._switch_due = None
        self._kill_at = time.monotonic() + GRACE_SECONDS

    def is_off(self) -> bool:
        """Whether the instance's processes have ended, or have now been ended because their time is over."""
        processes = (self._agent, self._switch, self._leaving)
        running = [process for process in processes if process is not None and process.poll() is None]
        if running and time.monotonic() < self._kill_at:
            return False
        self.cut_power()
        return True

    def cut_power(self) -> None:
        """Leave nothing of the instance's processes, wherever they have moved to."""
        if not self._environment:
            return
        for process in (self._agent, self._switch, self._leaving):
            if process is not None:
                _kill_group(process)
        kill_processes_with(contract.ENV_NODE_ID, self._facts.instance_id)
        for process in (self._agent, self._switch, self._leaving):
            if process is not None:
                process.wait()

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
            # Version 1 of the AWS CLI, which is the one here, knows the region by this name alone.
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

    def _machine_environment(self, node: Mapping[str, str], *, booted_at: float) -> dict[str, str]:
        """Give what the instance's boot script gives, and what instance metadata would have told."""
        facts = self._facts
        return {
            **without_aws(os.environ),
            **node,
            contract.ENV_ENGINE: contract.ENGINE_LOCAL,
            contract.ENV_NODE_ID: facts.instance_id,
            contract.ENV_NODE_ADDRESS: facts.address,
            contract.ENV_NODE_INTERFACE: "lo",
            contract.ENV_NODE_GPUS: str(facts.gpus),
            contract.ENV_NODE_TYPE: facts.instance_type,
            contract.ENV_NODE_ZONE: facts.zone,
            contract.ENV_NODE_MARKET: facts.market,
            # No image is pulled.
            **dict.fromkeys(
                (contract.ENV_BOOTED_AT, contract.ENV_PULL_BEGAN_AT, contract.ENV_PULLED_AT), str(int(booted_at))
            ),
            # What an instance prints is read here, too.
            contract.ENV_ECHO: "1",
            # The agent watches it for interruptions. The SDKs do not look there: they have credentials.
            contract.ENV_METADATA_ENDPOINT: f"{self._endpoint}{METADATA_PATH}{facts.instance_id}",
            **fake_credentials(self._endpoint, access_key=self._access_key),
            CLOUD_VARIABLE: self._endpoint,
        }


def _pid(process: subprocess.Popen[bytes] | None) -> int | None:
    return None if process is None else process.pid


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
