"""What `cdk.json` or `cdk deploy -c horovod:KEY=VALUE` may set, as one frozen value."""

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
    The app's settings; each is a context key of the same name behind the prefix `horovod:`.

    Args:
        instance_types: GPU instance types, separated by commas.
        max_gpus: GPUs that the fleet may hold at once.
        on_demand_base_gpus: GPUs that are always On-Demand; the leader runs there. The rest is Spot.
        network: How nodes reach AWS: `isolated`, `private-with-nat` or `public` (see `NetworkMode`).
        max_azs: Availability Zones to use. Two in a Region that has no third one.
        availability_zones: Their names, separated by commas, in place of `max_azs` (see `TrainingNetwork`).
        endpoint_azs: Zones that have interface endpoints. Default: all.
        readable_accounts: Other accounts whose buckets and repositories isolated nodes may read.
        gateway_prefix_lists: Ids of the prefix lists of S3 and DynamoDB (see `TrainingNetwork`).
        session_manager: Whether people can log in to nodes by Session Manager.
        machine_image: Id of the AMI that nodes stay with. Default: the newest at each deployment.
        volume_throughput: Of a node's root volume, in MiB/s.
        image: Folder with the Dockerfile, or the address of an image in ECR.
        image_profile:
            `default`, `newer` for P5, P5e and P5en, or `torch` for PyTorch (the table in `training_image/Dockerfile`).
        max_runtime_minutes: Longest training.
        max_restarts: How often a run that loses its leader, or a node that its ring needs, starts again.
        spot_seconds: How long Spot is tried in all zones together.
        spot_zone_seconds: How long it is then tried in each zone, before On-Demand is.
        heartbeat_seconds: A silent leader is given up after this long.
        launch_seconds: The first node must be there this long after the start.
        start_seconds: The whole ring must be ready this long after the start.
        first_step_seconds: The first training step must come this long after the ranks started.
        stall_seconds: Every later step must come this long after the one before.
        poll_seconds: Pause between two looks at the queue, or at nodes that go away.
        lease_seconds: A fleet stays a run's, and a node stays without a valid lease, this long.
        reaper_minutes: Time between two looks of the reaper at the fleets.
        queue_minutes: Longest wait for a fleet.
        max_cost_usd: Most that the instances of a run may cost. Default: no ceiling but a request's own.
        on_demand_prices:
            USD an hour of instance types, as in `g5.12xlarge=5.67,g5.4xlarge=1.62`: they count before all others, and
            the ceiling then holds against submitters in every Region (see `HorovodTraining`).
        dashboard: Whether there is a `TrainingDashboard`, at 3 USD a month unless the account has fewer than three.
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
    image: str = "training_image"
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
            ValueError: If a value has the wrong form, or a `horovod:` key is none of the settings.
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
    pairs = (part.partition("=") for part in _types(text))
    return tuple((name, float(usd)) for name, _, usd in pairs)


def _bool(text: Any) -> bool:
    spelled = str(text).strip().lower()
    if spelled not in ("true", "false"):
        raise ValueError("it must be true or false")
    return spelled == "true"


def _types(text: Any) -> tuple[str, ...]:
    return tuple(part.strip() for part in str(text).split(",") if part.strip())


_READERS: dict[str, Callable[[Any], Any]] = {
    "tuple[str, ...]": _types,
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
