"""The local cloud as the place of the drill `cdk-horovod prove`, where an AWS account would be otherwise."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from horovod_client.client import TrainingClient
from horovod_client.errors import PricesUnknown
from horovod_client.proof.aws import app_command
from horovod_client.proof.place import STACK, Paces, StepFailed
from horovod_local.cloud import LocalCloud
from horovod_local.instances.processes import without_aws
from horovod_local.shared.price_list import ON_DEMAND_USD, SAGEMAKER_USD

SCHEDULE_SPEED: Final = 15
"""The reaper runs every minute of the schedule, which is every 4 seconds here."""
NOTICE_SECONDS: Final = 15.0
DELETE_SECONDS: Final = 60


@dataclass(kw_only=True)
class LocalPlace:
    """
    A local cloud, started with `schedule_speed=SCHEDULE_SPEED`.

    Args:
        cloud: The cloud.
        folder: Folder in which the cloud assembly is written.
        engine: Engine of the drill.
        instance_type: Type of both nodes, with one GPU.
        max_cost_usd: Cost ceiling of a run, in USD.
        paces: Timeouts for nodes that boot in a second.
    """

    cloud: LocalCloud
    folder: Path
    engine: str
    instance_type: str
    max_cost_usd: float
    image: str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:local"
    local: bool = True
    name: str = "the local cloud: not AWS"
    paces: Paces = field(
        default_factory=lambda: Paces(
            heartbeat=15,
            lease=30,
            reaper=60 / SCHEDULE_SPEED,
            start=240,
            poll=1,
            look=0.5,
            settle=15,
            patience=120,
            epochs=20,
            elastic_epochs=60,
        )
    )

    def on_demand_usd(self) -> float:
        """Return the price in the local cloud's made-up price list."""
        prices = {**ON_DEMAND_USD, **SAGEMAKER_USD}
        if self.instance_type not in prices:
            raise PricesUnknown(f"the local cloud has no price of {self.instance_type}")
        return prices[self.instance_type]

    def deploy(self) -> None:
        """Synthesise the same app as for an account, and deploy its cloud assembly unchanged."""
        out = self.folder / "cdk.out"
        done = subprocess.run(
            shlex.split(app_command(self, usd_per_hour=self.on_demand_usd())),
            env={**without_aws(os.environ), "CDK_OUTDIR": str(out), "AWS_EC2_METADATA_DISABLED": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StepFailed(f"synthesis: {done.stdout[-1000:]}")
        self.cloud.deploy(out, tell=lambda _line: None)

    def destroy(self) -> None:
        """Delete the stack."""
        cloudformation = self.client("cloudformation")
        cloudformation.delete_stack(StackName=STACK)
        until = time.monotonic() + DELETE_SECONDS
        while True:
            try:
                status = cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]["StackStatus"]
            except cloudformation.exceptions.ClientError:
                return
            if status == "DELETE_COMPLETE":
                return
            if status == "DELETE_FAILED" or time.monotonic() > until:
                raise StepFailed(f"the stack {STACK} was not deleted: it is {status}")
            time.sleep(self.paces.look)

    def client(self, service: str) -> Any:
        """Return a boto3 client of the local cloud."""
        return self.cloud.client(service)

    def training(self) -> TrainingClient:
        """Connect to the training."""
        return self.cloud.training(STACK)

    def interrupt(self, instance: str) -> dict[str, str]:
        """Interrupt a Spot Instance, with a notice of 15 seconds instead of EC2's 120."""
        self.cloud.interrupt(instance, notice_seconds=NOTICE_SECONDS)
        return {"notice_s": str(NOTICE_SECONDS)}

    def tidy(self) -> list[str]:
        """Remove nothing: all that the drill made ends with the cloud."""
        return []
