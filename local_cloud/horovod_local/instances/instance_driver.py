"""
Runs a `Machine` for every instance that an Auto Scaling group has in service, until the instance is terminated.

An instance ends when Auto Scaling or EC2 terminates it, when it shuts itself down, or when a test takes its power; not
when its agent ends. All of its processes end with it.
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
from horovod_local.corrections.ecs import scheduling
from horovod_local.errors import LocalCloudError
from horovod_local.instances.addresses import Addresses
from horovod_local.instances.instance_metadata import InstanceMetadata
from horovod_local.instances.machine import LocalInstance, Machine
from horovod_local.instances.spot_events import emit_interruption_warning, emit_rebalance_recommendation
from horovod_local.instances.user_data import written_files
from horovod_local.permissions.deployed_policies import role_of_profile
from horovod_local.permissions.principals import PRINCIPALS
from horovod_local.shared.faults import ACTIVE_FAULTS
from horovod_node import contract

POLL_SECONDS: Final = 0.1

_log = logging.getLogger(__name__)


class InstanceDriver(threading.Thread):
    """
    Starts and stops the machines until `stop` is called.

    Args:
        home: Folder for the instances' files: `instances/<id>/node.log`, `switch.log` and the node's folder `ml`.
        endpoint: URL of the local cloud, for the nodes.
        addresses: The cloud's addresses, of which each instance takes one.
        node_python: Python interpreter that runs `horovod_node`.
        own_opt_ml: Whether each node's folder `ml` is mounted at `/opt/ml` for that node.
    """

    def __init__(
        self,
        *,
        home: Path,
        endpoint: str,
        addresses: Addresses,
        node_python: str = sys.executable,
        own_opt_ml: bool = True,
    ) -> None:
        super().__init__(name="instances", daemon=True)
        self._home = home
        self._endpoint = endpoint
        self._python = node_python
        self._own_opt_ml = own_opt_ml
        self._addresses = addresses
        self._machines: dict[str, Machine] = {}
        self._shutting_down: list[Machine] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self._step()
            except Exception:
                # One failing instance must not end all the others.
                _log.exception("running the instances failed; trying again")

    def stop(self) -> None:
        """Terminate every instance, and return when all of their processes have ended."""
        self._stopping.set()
        self.join()
        with self._lock:
            for machine in list(self._machines.values()):
                self._shut_down(machine)
            while self._shutting_down:
                self._remove_ended()
                time.sleep(POLL_SECONDS / 4)

    def instances(self) -> list[dict[str, Any]]:
        """Describe the running instances, as JSON."""
        with self._lock:
            return [asdict(machine.facts) for machine in self._machines.values()]

    def lose(self, instance_id: str) -> bool:
        """Cut the power of an instance, so that EC2 reports it as terminated; False if no such instance runs."""
        with self._lock:
            machine = self._machines.pop(instance_id, None)
            if machine is None:
                return False
            _log.info("%s lost", instance_id)
            machine.cut_power()
            self._addresses.release(instance_id)
        _terminate(machine)
        return True

    def interrupt(self, instance_id: str, *, notice_seconds: float) -> bool:
        """
        Interrupt a Spot Instance: give it a notice, and cut its power after *notice_seconds*.

        EC2 would shut it down first, but does not guarantee any time for that.

        Returns:
            False if no such instance runs.

        Raises:
            LocalCloudError: If the instance is not a Spot Instance, or is already being interrupted.
        """
        with self._lock:
            machine = self._spot_machine(instance_id)
            if machine is None:
                return False
            if machine.facts.interruption == contract.INTERRUPTION_NOTICE:
                raise LocalCloudError(f"{instance_id} is already being interrupted")
            _log.info("%s will be interrupted in %g s", instance_id, notice_seconds)
            machine.interrupt(notice_seconds=notice_seconds)
        emit_interruption_warning(machine)
        return True

    def recommend_rebalance(self, instance_id: str) -> bool:
        """
        Give a Spot Instance a rebalance recommendation; False if no such instance runs.

        Raises:
            LocalCloudError: If the instance is not a Spot Instance.
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
        """Return the metadata of a running instance; None if no such instance runs."""
        # Without the lock, because a booting instance may ask while the driver is starting others.
        machine = self._machines.get(instance_id)
        return None if machine is None else machine.metadata

    def answer_task(self, instance_id: str, path: str) -> tuple[int, Any]:
        """Answer a container's request for credentials or metadata of its ECS task, by HTTP status and JSON."""
        # Without the lock, as for metadata.
        machine = self._machines.get(instance_id)
        return (404, {}) if machine is None else machine.answer_task(path)

    def shut_down(self, instance_id: str) -> bool:
        """
        Let an instance shut itself down, so that EC2 reports it as terminated; False if no such instance runs.

        `InstanceInitiatedShutdownBehavior` is ignored: the group would find a stopped instance unhealthy and terminate
        it, too.
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
        for account, region in _ecs_regions():
            scheduling.advance(account, region, now=now)
        for account, region, group in _groups():
            launches.advance(group, now=now)
            for state in list(group.instance_states):
                if state.lifecycle_state != launches.PENDING:
                    present[state.instance.id] = (account, region, group, state)
        for instance_id in self._interrupted(now=now):
            self.lose(instance_id)
            present.pop(instance_id, None)
        with self._lock:
            for instance_id, (account, region, group, state) in present.items():
                # An instance that was terminated before it was seen in service has no processes.
                if instance_id not in self._machines and state.lifecycle_state == launches.IN_SERVICE:
                    self._machines[instance_id] = self._start(account, region, group, state)
            for instance_id, machine in list(self._machines.items()):
                if instance_id in present:
                    machine.supervise(now=now)
                else:
                    self._shut_down(machine)
            self._remove_ended()

    def _interrupted(self, *, now: float) -> list[str]:
        """List the instances whose interruption notice is over."""
        with self._lock:
            return [id_ for id_, machine in self._machines.items() if machine.is_interruption_due(now=now)]

    def _spot_machine(self, instance_id: str) -> Machine | None:
        machine = self._machines.get(instance_id)
        if machine is not None and machine.facts.market != contract.SPOT:
            raise LocalCloudError(f"'instance_id' must be a Spot Instance, got {instance_id}, which is On-Demand")
        return machine

    def _start(self, account: str, region: str, group: Any, state: Any) -> Machine:
        instance = state.instance
        faults = ACTIVE_FAULTS.faults
        address = self._addresses.take(instance.id)
        if address is None and faults.agents_start:
            raise LocalCloudError(
                f"{instance.id} cannot start: the network has addresses for 254 instances with agents only"
            )
        facts = LocalInstance(
            instance_id=instance.id,
            address=address or self._addresses.shared,
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
            endpoint=self._endpoint,
            access_key=PRINCIPALS.assume(role, region=region, session=instance.id, caller=instance.id)
            if role
            else None,
            own_opt_ml=self._own_opt_ml,
        )
        machine.boot(
            files=written_files(instance.user_data.decode() if instance.user_data else ""),
            python=self._python,
            with_agent=faults.agents_start,
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

    def _shut_down(self, machine: Machine) -> None:
        """Begin to shut the machine down; `_remove_ended` completes it."""
        _log.info("%s terminated", machine.facts.instance_id)
        del self._machines[machine.facts.instance_id]
        machine.shut_down()
        self._shutting_down.append(machine)

    def _remove_ended(self) -> None:
        for machine in list(self._shutting_down):
            if machine.is_off():
                self._shutting_down.remove(machine)
                self._addresses.release(machine.facts.instance_id)


def _groups() -> Iterator[tuple[str, str, Any]]:
    from moto.autoscaling.models import autoscaling_backends

    for account, regions in list(autoscaling_backends.items()):
        for region, backend in list(regions.items()):
            for group in list(backend.autoscaling_groups.values()):
                yield account, region, group


def _ecs_regions() -> list[tuple[str, str]]:
    """List the accounts and Regions that have ECS clusters."""
    from moto.ecs.models import ecs_backends

    return [
        (account, region)
        for account, regions in list(ecs_backends.items())
        for region, backend in list(regions.items())
        if backend.clusters
    ]


def _role(group: Any, *, account: str, region: str) -> str:
    """Return the ARN of the role in the launch template of *group*; empty if there is none."""
    from moto.utilities.utils import get_partition

    template = group.ec2_launch_template
    profile = template.get_version(group.launch_template_version).data.get("IamInstanceProfile") if template else None
    return role_of_profile(profile or {}, account=account, partition=get_partition(region))


def _terminate(machine: Machine) -> None:
    """Report the end to EC2 and the group. Call it without the driver's lock, because the group takes its own lock."""
    from moto.autoscaling.models import autoscaling_backends
    from moto.ec2.models import ec2_backends

    instance_id = machine.facts.instance_id
    ec2_backends[machine.account][machine.region].terminate_instances([instance_id])
    autoscaling_backends[machine.account][machine.region].notify_terminate_instances([instance_id])
