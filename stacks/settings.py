"""Settings of the app, from `cdk.json` or `cdk deploy -c horovod:KEY=VALUE`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from constructs import Node

from cdk_horovod import NetworkMode

PREFIX = "horovod:"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    The app's settings. Each is the context key of the same name with the prefix `horovod:`.

    Args:
        instance_types: GPU instance types, separated by commas.
        max_gpus: Most GPUs of the fleet.
        on_demand_base_gpus: GPUs that are always On-Demand, on which the leader runs. The other GPUs are Spot.
        network: How nodes reach AWS: `isolated`, `private-with-nat` or `public` (see `NetworkMode`).
        max_azs: Number of Availability Zones. 2 in a Region without a third zone.
        availability_zones: Names of zones, separated by commas, instead of `max_azs` (see `TrainingNetwork`).
        endpoint_azs: Number of zones with interface endpoints. Default: all zones.
        readable_accounts: Ids of other accounts whose buckets and repositories isolated nodes may read.
        gateway_prefix_lists: Ids of the prefix lists of S3 and DynamoDB (see `TrainingNetwork`).
        session_manager: Whether people can log in to nodes through Session Manager.
        machine_image: Id of the nodes' AMI. Default: the newest AMI at each deployment.
        volume_throughput: Throughput of a node's root volume, in MiB/s.
        image: Folder with the Dockerfile, or the URI of an image in ECR. Default: the library's own image.
        image_profile:
            `default`, `newer` for P5, P5e and P5en, or `torch` for PyTorch (the table in `training_image/Dockerfile`).
        max_runtime_minutes: Longest training of a run.
        max_restarts: How often a run that loses its leader, or a node that its ring needs, starts again.
        spot_seconds: How long a run tries Spot in all zones together.
        spot_zone_seconds: How long it then tries Spot in each zone, before On-Demand.
        heartbeat_seconds: Time without a heartbeat after which the leader counts as lost.
        launch_seconds: Time from the start of nodes until the first node has joined.
        start_seconds: Time from the start of nodes until the ring has formed.
        first_step_seconds: Time from the start of the ranks until the first training step.
        stall_seconds: Longest time between two training steps.
        poll_seconds: Pause between two polls of terminating nodes, and shortest pause between two polls of the queue.
        lease_seconds: How long a run keeps its fleet, and a node runs, without a renewal of the lease.
        reaper_minutes: Time between two executions of the reaper.
        queue_minutes: Longest wait for a fleet.
        max_cost_usd: Highest and default cost ceiling of a run. Default: only the ceiling of a request.
        on_demand_prices:
            On-Demand prices in USD an hour, such as `g5.12xlarge=5.67,g5.4xlarge=1.62`. They take precedence over all
            other prices, and enforce the ceiling in every Region (see `HorovodTraining`).
        dashboard: Whether to deploy a `TrainingDashboard`; 3 USD a month after an account's first three dashboards.
    """

    instance_types: tuple[str, ...] = ("g5.12xlarge", "g5.4xlarge")
    max_gpus: int = 16
    on_demand_base_gpus: int = 1
    network: NetworkMode = NetworkMode.ISOLATED
    max_azs: int = 3
    availability_zones: tuple[str, ...] = ()
    endpoint_azs: int | None = None
    readable_accounts: tuple[str, ...] = ()
    gateway_prefix_lists: tuple[str, ...] = ()
    session_manager: bool = False
    machine_image: str = ""
    volume_throughput: int = 500
    image: str = ""
    image_profile: str = "default"
    max_runtime_minutes: int = 24 * 60
    max_restarts: int = 3
    spot_seconds: int = 10 * 60
    spot_zone_seconds: int = 5 * 60
    heartbeat_seconds: int = 60
    launch_seconds: int = 15 * 60
    start_seconds: int = 30 * 60
    first_step_seconds: int = 30 * 60
    stall_seconds: int = 10 * 60
    poll_seconds: int = 15
    lease_seconds: int = 10 * 60
    reaper_minutes: int = 5
    queue_minutes: int = 24 * 60
    max_cost_usd: float | None = None
    on_demand_prices: tuple[tuple[str, float], ...] = ()
    dashboard: bool = True

    @classmethod
    def from_context(cls, node: Node) -> Settings:
        """
        Read the settings from the app's context.

        Raises:
            ValueError: If a value has the wrong form, or a `horovod:` key is not a setting.
        """
        known = {field.name: field for field in fields(cls)}
        unknown = [key.removeprefix(PREFIX) for key in node.get_all_context() if key.startswith(PREFIX)]
        for name in unknown:
            if name not in known:
                raise ValueError(f"'{PREFIX}{name}' is not a setting; the settings are {', '.join(known)}")
        values = {}
        for name, field in known.items():
            text = node.try_get_context(PREFIX + name)
            if text is not None:
                values[name] = _read(name, text, _READERS[str(field.type)])
        return cls(**values)


def _prices(text: Any) -> tuple[tuple[str, float], ...]:
    pairs = (part.partition("=") for part in _list(text))
    return tuple((name, float(usd)) for name, _, usd in pairs)


def _bool(text: Any) -> bool:
    spelled = str(text).strip().lower()
    if spelled not in ("true", "false"):
        raise ValueError("it must be true or false")
    return spelled == "true"


def _list(text: Any) -> tuple[str, ...]:
    return tuple(part.strip() for part in str(text).split(",") if part.strip())


_READERS: dict[str, Callable[[Any], Any]] = {
    "tuple[str, ...]": _list,
    "int": int,
    "int | None": int,
    "bool": _bool,
    "float | None": float,
    "tuple[tuple[str, float], ...]": _prices,
    "NetworkMode": NetworkMode,
    "str": str,
}


def _read(name: str, text: Any, reader: Callable[[Any], Any]) -> Any:
    try:
        return reader(text)
    except ValueError as error:
        raise ValueError(f"'{PREFIX}{name}' cannot be {text!r}: {error}") from error
