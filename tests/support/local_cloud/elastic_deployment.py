"""A deployed app whose runs lose nodes: one On-Demand GPU, up to three from Spot, one a node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from horovod_client import Run
from horovod_local import LocalCloud, LocalInstance
from horovod_node import contract
from horovod_node.checkpoints.manifest import complete_checkpoints, read_manifest
from horovod_node.ledger.ledger import NodeItem
from support.local_cloud.deployment import SETTINGS, Deployment
from support.synthesis import synthesise
from support.waiting import eventually

MAX_GPUS = 4
ELASTIC_SETTINGS = {**SETTINGS, "instance_types": "g5.xlarge", "max_gpus": MAX_GPUS, "on_demand_base_gpus": 1}


@dataclass(frozen=True, kw_only=True)
class ElasticDeployment(Deployment):
    """The deployment, and what is known of its nodes."""

    def leader(self, run: Run, *, attempt: int = 1) -> LocalInstance:
        """Wait for the leader of *attempt*, and give its instance."""
        name = eventually(lambda: self.ledger.leader(self.lease_of(run, attempt)))
        return next(item for item in self.cloud.instances() if item.instance_id == name)

    def spots(self) -> list[LocalInstance]:
        """List the Spot Instances that run and have no notice, in the order in which they came."""
        return [item for item in self.cloud.instances() if item.market == contract.SPOT and not item.interruption]

    def wait_for_step(self, run: Run, step: int, *, nodes: int, attempt: int = 1) -> dict[str, NodeItem]:
        """
        Wait until at least *nodes* nodes of *attempt* train together and have done *step*.

        Returns:
            All nodes of the attempt, as they were then.
        """

        def there(items: Mapping[str, NodeItem]) -> bool:
            at_step = [item for item in items.values() if item.state == contract.NODE_TRAINING and item.step >= step]
            return len(at_step) >= nodes or run.status().state != "RUNNING"

        items = eventually(lambda: self.nodes(run, attempt=attempt), there)
        assert run.status().state == "RUNNING", run.status()
        assert there(items), items
        return items

    def wait_for_checkpoint(self, run: Run) -> int:
        """Wait until a checkpoint of the run can be restored, and give the newest one's step."""
        s3, bucket = self.cloud.client("s3"), self.training.connection.model_bucket
        (name, *_) = eventually(lambda: complete_checkpoints(s3, bucket=bucket, run_id=run.run_id))
        step = read_manifest(s3, bucket=bucket, name=name).step
        assert step is not None
        return step


@contextmanager
def elastic_deployment(folder: Path, **settings: object) -> Iterator[ElasticDeployment]:
    """
    Deploy the app into a local cloud of its own, for as long as the block lasts.

    Args:
        folder: For the assembly and the cloud's files.
        settings: Of the app, beside those that make its times short.
    """
    synthesise(folder / "cdk.out", settings={**ELASTIC_SETTINGS, **settings})
    with LocalCloud(home=folder / "cloud") as cloud:
        cloud.deploy(folder / "cdk.out")
        yield ElasticDeployment(cloud=cloud)
