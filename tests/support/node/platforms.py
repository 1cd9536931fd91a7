"""Containers of ECS and SageMaker on this machine, with what these platforms put into them."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from horovod_local.instances import opt_ml
from horovod_node import contract
from support.node.emulated_aws import MetadataService
from support.node.rings import Agent, Ring, wait_for

AGENT = [sys.executable, "-m", "horovod_node"]


class EcsInstance:
    """
    An instance on which ECS runs a daemon's task.

    Args:
        ring: Whose fleet it belongs to.
        number: Number of the instance; the first one is On-Demand, and leads.
        open_until: Closes its metadata service.
    """

    def __init__(self, ring: Ring, number: int, *, open_until: ExitStack) -> None:
        self._ring = ring
        self.id = f"i-{number}"
        self.address = ring.address(number)
        self.metadata = MetadataService(
            {
                "instance-id": self.id,
                "instance-type": "g5.xlarge",
                "instance-life-cycle": contract.ON_DEMAND if number == 1 else contract.SPOT,
                "local-ipv4": self.address,
                "placement/availability-zone": "us-east-1a",
            }
        )
        open_until.callback(self.metadata.close)

    @property
    def part_over(self) -> Path:
        """The file by which the agent asks the instance to terminate itself."""
        return self._ring.folder / self.id / contract.PART_OVER_FILE

    def start_task(self) -> Agent:
        """Start the daemon's task, as ECS does whenever there is none."""
        return self._ring.launch(
            AGENT,
            name=self.id,
            address=self.address,
            **{
                contract.ENV_ENGINE: contract.ENGINE_ECS,
                contract.ENV_METADATA_ENDPOINT: self.metadata.endpoint,
                contract.ENV_NODE_INTERFACE: "lo",
                contract.ENV_NODE_GPUS: "1",
            },
        )

    def replace_task(self, agent: Agent) -> Agent:
        """Kill the task, as the kernel does when memory runs out, and start the next one."""
        agent.kill()
        agent.process.wait()
        return self.start_task()

    def waits(self, agent: Agent) -> None:
        """Wait until the newest task of this instance has found nothing to do."""
        wait_for(f"waiting of {self.id}", lambda: agent.text().rpartition("horovod_node: ")[2].startswith("waiting: "))


class TrainingJob:
    """
    A SageMaker training job whose containers run.

    Args:
        ring: Whose run it is for.
        hosts: Number of its containers.
        attempt: Attempt that its Environment names. Default: the ring's.
        environment: What its Environment has besides, or instead.
    """

    def __init__(self, ring: Ring, *, hosts: int, attempt: int | None = None, **environment: str) -> None:
        self._environment = {
            contract.ENV_ENGINE: contract.ENGINE_SAGEMAKER,
            contract.ENV_RUN_ID: ring.run_id,
            contract.ENV_ATTEMPT: str(ring.attempt if attempt is None else attempt),
            contract.ENV_NODE_MARKET: contract.ON_DEMAND,
            contract.ENV_NODE_GPUS: "1",
            **environment,
        }
        first = len(ring.agents) + 1
        # Addresses in the place of names: this machine resolves no names of containers.
        self.hosts = [ring.address(number) for number in range(first, first + hosts)]
        self.folders = [ring.folder / f"opt-ml-{host}" for host in self.hosts]
        self.agents = [self._start(ring, *each) for each in zip(self.hosts, self.folders, strict=True)]

    def _start(self, ring: Ring, host: str, folder: Path) -> Agent:
        for name in ("input/config", "model", "output/data"):
            (folder / name).mkdir(parents=True)
        resources = {
            "current_host": host,
            "hosts": self.hosts,
            "network_interface_name": "lo",
            "current_instance_type": "ml.g5.xlarge",
        }
        (folder / "input" / "config" / "resourceconfig.json").write_text(json.dumps(resources))
        return ring.launch(
            opt_ml.command(folder, [*AGENT, "train"]),
            name=f"container-{host}",
            address=host,
            TRAINING_JOB_NAME="horovod-1",
            **self._environment,
        )

    def exit_codes(self) -> list[int]:
        """Wait for the containers' ends."""
        return [agent.exit_code() for agent in self.agents]

    def reasons(self) -> list[str | None]:
        """Give each container's failure file, from which SageMaker makes the FailureReason; `None` for none."""
        files = [folder / "output" / "failure" for folder in self.folders]
        return [file.read_text() if file.exists() else None for file in files]
