"""
Acts the instances: a `Machine` for every instance that an Auto Scaling group has in service, until it is terminated.

An instance ends when Auto Scaling or EC2 terminates it, when it shuts itself down, or when it is lost; not when its
agent does. It loses all of its processes then.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from horovod_local.corrections import launches
from horovod_local.errors import LocalCloudError
from horovod_local.instances.instance_metadata import InstanceMetadata
from horovod_local.instances.machine import LocalInstance, Machine
from horovod_local.instances.spot_events import emit_interruption_warning, emit_rebalance_recommendation
from horovod_local.instances.user_data import written_files
from horovod_local.permissions.principals import PRINCIPALS
from horovod_local.permissions.stored import role_of_profile
from horovod_local.shared.faults import IN_FORCE
from horovod_node import contract

POLL_SECONDS: Final = 0.1
NO_NUMBER: Final = 0
"""Ends the address of an instance that needs none, because its agent is not started, where no number is free."""

_log = logging.getLogger(__name__)


class InstanceDriver(threading.Thread):
    """
    Starts and stops the machines until `stop` is called.

    Args:
        home: Folder for the instances' files: `instances/<id>/node.log`, `switch.log` and the node's `ml` folder.
        endpoint: Address of the local cloud, for the nodes.
        node_python: Interpreter that runs `horovod_node`.
        own_opt_ml: Whether each node gets its `ml` folder as `/opt/ml`.
    """

    def __init__(
        self, *, home: Path, endpoint: str, node_python: str = sys.executable, own_opt_ml: bool = True
    ) -> None:
        super().__init__(name="instances", daemon=True)
        self._home = home
        self._endpoint = endpoint
        self._python = node_python
        self._own_opt_ml = own_opt_ml
        self._network = _network(endpoint)
        self._machines: dict[str, Machine] = {}
        self._leaving: list[Machine] = []
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
        """Terminate every instance, and return when none of their processes is left."""
        self._stopping.set()
        self.join()
        with self._lock:
            for machine in list(self._machines.values()):
                self._dismiss(machine)
            while self._leaving:
                self._finish_leaving()
                time.sleep(POLL_SECONDS / 4)

    def instances(self) -> list[dict[str, Any]]:
        """Describe the instances that run, as JSON."""
        with self._lock:
            return [asdict(machine.facts) for machine in self._machines.values()]

    def lose(self, instance_id: str) -> bool:
        """Take the power from an instance, so that EC2 says terminated; False if no such instance runs."""
        with self._lock:
            machine = self._machines.pop(instance_id, None)
            if machine is None:
                return False
            _log.info("%s lost", instance_id)
            machine.cut_power()
        _terminate(machine)
        return True

    def interrupt(self, instance_id: str, *, notice_seconds: float) -> bool:
        """
        Announce to a Spot instance that EC2 takes it back, and take it when the time has come.

        It loses its power then: EC2 shuts an instance down, but promises it no time to do so.

        Returns:
            False if no such instance runs.

        Raises:
            LocalCloudError: If the instance is no Spot Instance, or is being taken back already.
        """
        with self._lock:
            machine = self._spot_machine(instance_id)
            if machine is None:
                return False
            if machine.facts.interruption == contract.INTERRUPTION_NOTICE:
                raise LocalCloudError(f"{instance_id} is being interrupted already")
            _log.info("%s is taken back in %g s", instance_id, notice_seconds)
            machine.interrupt(notice_seconds=notice_seconds)
        emit_interruption_warning(machine)
        return True

    def recommend_rebalance(self, instance_id: str) -> bool:
        """
        Tell a Spot instance that an interruption is more likely than usual; False if no such instance runs.

        Raises:
            LocalCloudError: If the instance is no Spot Instance.
        """
        with self._lock:
            machine = self._spot_machine(instance_id)
            if machine is None:
                return False
            machine.recommend_rebalance()
        emit_rebalance_recommendation(machine)
        return True

    def drop(self, instance_id: str) -> bool:
        """Stop all processes of an instance; False if no such instance runs."""
        with self._lock:
            machine = self._machines.get(instance_id)
            if machine is None:
                return False
            _log.info("%s dropped", instance_id)
            machine.drop()
        return True

    def metadata(self, instance_id: str) -> InstanceMetadata | None:
        """Give the metadata of an instance that has not ended."""
        # Without the lock: an instance that boots may ask while the driver still starts others.
        machine = self._machines.get(instance_id)
        return None if machine is None else machine.metadata

    def shut_down(self, instance_id: str) -> bool:
        """
        Let an instance power itself off, so that EC2 says terminated; False if no such instance runs.

        An instance that stops rather than terminates would be found unhealthy and terminated by its group: the end is
        the same, so `InstanceInitiatedShutdownBehavior` is not looked at.
        """
        with self._lock:
            machine = self._machines.get(instance_id)
        if machine is None:
            return False
        _log.info("%s shuts itself down", instance_id)
        _terminate(machine)
        return True

    def _step(self) -> None:
        now = time.monotonic()
        present = {}
        for account, region, group in _groups():
            launches.pass_time(group, now=now)
            for state in list(group.instance_states):
                if state.lifecycle_state != launches.PENDING:
                    present[state.instance.id] = (account, region, group, state)
        for instance_id in self._taken_back(now=now):
            self.lose(instance_id)
            present.pop(instance_id, None)
        with self._lock:
            for instance_id, (account, region, group, state) in present.items():
                # One that is told to terminate before it was ever seen in service has nothing to end.
                if instance_id not in self._machines and state.lifecycle_state == launches.IN_SERVICE:
                    self._machines[instance_id] = self._start(account, region, group, state)
            for instance_id, machine in list(self._machines.items()):
                if instance_id in present:
                    machine.look_after(now=now)
                else:
                    self._dismiss(machine)
            self._finish_leaving()

    def _taken_back(self, *, now: float) -> list[str]:
        """List the interrupted instances whose time has come."""
        with self._lock:
            return [id_ for id_, machine in self._machines.items() if machine.is_taken_back(now=now)]

    def _spot_machine(self, instance_id: str) -> Machine | None:
        machine = self._machines.get(instance_id)
        if machine is not None and machine.facts.market != contract.SPOT:
            raise LocalCloudError(f"'instance_id' must be a Spot Instance, got {instance_id}, which is On-Demand")
        return machine

    def _start(self, account: str, region: str, group: Any, state: Any) -> Machine:
        instance = state.instance
        taken = {machine.number for machine in [*self._machines.values(), *self._leaving]}
        faults = IN_FORCE.faults
        number = next((number for number in range(1, 255) if number not in taken), NO_NUMBER)
        if number == NO_NUMBER and faults.agents_start:
            raise LocalCloudError(f"{instance.id} cannot start: this network has room for 254 instances with agents")
        facts = LocalInstance(
            instance_id=instance.id,
            address=f"{self._network}.{number}",
            instance_type=instance.instance_type,
            gpus=launches.weight_of(state),
            market=launches.market_of(instance),
            zone=instance.placement.zone,
            group=group.name,
            log=str(self._home / "instances" / instance.id / "node.log"),
        )
        role = _role(group, account=account, region=region)
        machine = Machine(
            facts=facts,
            account=account,
            region=region,
            number=number,
            endpoint=self._endpoint,
            access_key=PRINCIPALS.assume(role, region=region, session=instance.id, caller=instance.id)
            if role
            else None,
            own_opt_ml=self._own_opt_ml,
        )
        machine.boot(
            files=written_files(instance.user_data.decode() if instance.user_data else ""),
            agent=self._python if faults.agents_start else None,
            with_switch=faults.switches_start,
        )
        _log.info(
            "%s in service: %s, %s, %s, agent %s, switch %s",
            instance.id,
            facts.instance_type,
            facts.market,
            facts.zone,
            machine.facts.pid,
            machine.facts.switch_pid,
        )
        return machine

    def _dismiss(self, machine: Machine) -> None:
        """Ask the machine to end; `_finish_leaving` sees to it that it does."""
        _log.info("%s terminated", machine.facts.instance_id)
        del self._machines[machine.facts.instance_id]
        machine.shut_down()
        self._leaving.append(machine)

    def _finish_leaving(self) -> None:
        self._leaving = [machine for machine in self._leaving if not machine.is_off()]


def _groups() -> Iterator[tuple[str, str, Any]]:
    from moto.autoscaling.models import autoscaling_backends

    for account, regions in list(autoscaling_backends.items()):
        for region, backend in list(regions.items()):
            for group in list(backend.autoscaling_groups.values()):
                yield account, region, group


def _role(group: Any, *, account: str, region: str) -> str:
    """Find the ARN of the role that the launch template of *group* gives to instances; empty if it gives none."""
    from moto.utilities.utils import get_partition

    template = group.ec2_launch_template
    profile = template.get_version(group.launch_template_version).data.get("IamInstanceProfile") if template else None
    return role_of_profile(profile or {}, account=account, partition=get_partition(region))


def _terminate(machine: Machine) -> None:
    """Tell EC2 and the group; outside the driver's lock, since the group then acts, and takes a lock of its own."""
    from moto.autoscaling.models import autoscaling_backends
    from moto.ec2.models import ec2_backends

    instance_id = machine.facts.instance_id
    ec2_backends[machine.account][machine.region].terminate_instances([instance_id])
    autoscaling_backends[machine.account][machine.region].notify_terminate_instances([instance_id])


def _network(endpoint: str) -> str:
    """
    Choose the first three numbers of the nodes' addresses from the cloud's port.

    Two clouds on one machine have two ports, so their nodes never meet, although all serve the same fixed port.
    """
    port = int(endpoint.rpartition(":")[2])
    return f"127.{port >> 8}.{port & 255}"
