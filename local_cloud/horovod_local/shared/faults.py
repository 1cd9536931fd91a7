"""Faults that tests and demonstrations can inject into the local cloud; by default there are none."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from horovod_local.errors import LocalCloudError

MARKETS: Final = ("on-demand", "spot")
SERVICES: Final = (
    "autoscaling",
    "cloudformation",
    "cloudwatch",
    "dynamodb",
    "ec2",
    "ecs",
    "events",
    "pricing",
    "s3",
    "sagemaker",
    "sns",
    "stepfunctions",
)
"""Services whose requests can fail, by their names in boto3."""
NODE: Final = "node"
INSTANCE_PREFIX: Final = "i-"
HOST_PREFIX: Final = "algo-"
"""Beginning of a caller that is a host of a training job, such as `algo-1-job` for the first host of `job`."""
NODE_PREFIXES: Final = (INSTANCE_PREFIX, HOST_PREFIX)
"""Beginnings of the callers that are nodes."""
WORKFLOW: Final = "workflow"
CAPACITY: Final = "capacity"
QUOTA: Final = "quota"
THROTTLING: Final = "throttling"
REFUSALS: Final = (CAPACITY, QUOTA, THROTTLING)
"""Reasons for which EC2 refuses a launch, and SageMaker a training job."""
LAUNCH_ANSWER_SECONDS: Final = 0.3
"""Default time between a launch request and EC2's answer, which takes seconds on AWS."""
JOB_CAPACITY_SECONDS: Final = 2400.0
"""
Default time for which an On-Demand training job waits for capacity. AWS documents none; users report more than 40
minutes (aws/deep-learning-containers issue 6299).
"""
JOB_STOP_SECONDS: Final = 120.0
"""Default time between SIGTERM and SIGKILL of a training job's containers (API Reference, StopTrainingJob)."""
TRANSACTION_CANCELED: Final = "TransactionCanceledException"
DROP: Final = "drop"
"""Value of `ApiFault.error` that closes the connection without an answer."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """
    Launches that EC2 refuses, and training jobs that SageMaker refuses: those that match every given field.

    A training job for which there is no capacity waits for it; the others are refused when they are created.

    Args:
        instance_type: Instance type, such as `g5.xlarge`, or `ml.g5.xlarge` for training jobs. Default: every type.
        market: `on-demand` or `spot`. Default: both.
        zone: Availability Zone, such as `eu-west-1a`; training jobs have none. Default: every zone.
        why: One of `REFUSALS`: no capacity, the account's quota is used up, or requests are throttled.

    Raises:
        LocalCloudError: If *market* or *why* is unknown.
    """

    instance_type: str | None = None
    market: str | None = None
    zone: str | None = None
    why: str = CAPACITY

    def __post_init__(self) -> None:
        if self.market not in (None, *MARKETS):
            raise LocalCloudError(f"'market' must be one of {', '.join(MARKETS)}, got {self.market}")
        if self.why not in REFUSALS:
            raise LocalCloudError(f"'why' must be one of {', '.join(REFUSALS)}, got {self.why}")

    def matches(self, *, instance_type: str, market: str, zone: str) -> bool:
        """Whether such a launch is refused; a training job's *zone* is empty."""
        wanted = {"instance_type": instance_type, "market": market, "zone": zone}
        return all(getattr(self, name) in (None, value) for name, value in wanted.items())


@dataclass(frozen=True, kw_only=True)
class ApiFault:
    """
    Requests to AWS that fail or are answered late.

    Retries of an SDK count as requests of their own.

    Args:
        service: One of `SERVICES`, or `*`.
        operation: Name in the API, such as `GetItem`, or a pattern, such as `Describe*`. Default: every operation.
        caller: `node` (agent and switch of any instance, and any host of a training job), the id of one instance, one
            host such as `algo-1-job`, or `workflow` (any state machine). Default: every caller.
        state: Name of the calling state of a state machine, or a pattern. Default: every state and other caller.
        times: Number of requests that fail. Default: no limit.
        seconds: How long requests fail, from the injection on. Default: until other faults are injected.
        error: Error code of the answer. DynamoDB's `TransactionCanceledException` has a conflict as its reason.
            `drop`: the connection is closed without an answer. `None`: the request succeeds, after *delay_seconds*.
        status: HTTP status of the error.
        delay_seconds: How long a request waits before it fails or succeeds, at most until other faults are injected.

    Raises:
        LocalCloudError: If a value is outside its range, or the fault would do nothing.
    """

    service: str
    operation: str = "*"
    caller: str | None = None
    state: str | None = None
    times: int | None = None
    seconds: float | None = None
    error: str | None = "ServiceUnavailable"
    status: int = 503
    delay_seconds: float = 0

    def __post_init__(self) -> None:
        if self.service not in (*SERVICES, "*"):
            raise LocalCloudError(f"'service' must be one of {', '.join(SERVICES)} or *, got {self.service}")
        if self.caller is not None and self.caller not in (NODE, WORKFLOW) and not _is_node(self.caller):
            raise LocalCloudError(
                f"'caller' must be {NODE}, {WORKFLOW}, an instance's id or a training job's host, got {self.caller}"
            )
        if self.times is not None and self.times < 1:
            raise LocalCloudError(f"'times' must be at least 1, got {self.times}")
        if self.seconds is not None and self.seconds <= 0:
            raise LocalCloudError(f"'seconds' must be more than 0, got {self.seconds}")
        if not 400 <= self.status <= 599:
            raise LocalCloudError(f"'status' must be an HTTP status from 400 to 599, got {self.status}")
        if self.delay_seconds < 0:
            raise LocalCloudError(f"'delay_seconds' must be at least 0, got {self.delay_seconds}")
        if self.error is None and not self.delay_seconds:
            raise LocalCloudError("'error' must name an error when 'delay_seconds' is 0, got None")

    def matches(self, *, service: str, operation: str, caller: str, state: str = "") -> bool:
        """Whether this fault applies to a request."""
        return (
            (self.state is None or fnmatch.fnmatchcase(state, self.state))
            and self.service in ("*", service)
            and fnmatch.fnmatchcase(operation, self.operation)
            and (self.caller in (None, caller) or (self.caller == NODE and _is_node(caller)))
        )


@dataclass(frozen=True, kw_only=True)
class Faults:
    """
    The faults of a local cloud.

    Args:
        launch_answer_seconds: How long EC2 takes to answer a launch. Until then the group lists no instance, and
            DescribeScalingActivities lists an unfinished launch. An instance that arrives after the capacity was
            lowered is terminated. Default: 0.3, so that no code relies on an immediate answer.
        launch_delay_seconds: How long an instance stays pending before it is in service, at most until other faults are
            injected. Default: 0.
        refused: Launches that EC2 refuses. Default: none.
        termination_delay_seconds: How long an instance that its group terminates still runs, `Terminating` in its group
            and `shutting-down` in EC2, at most until other faults are injected. Default: 0.
        terminations_retained: Whether instances that a group terminates are retained (`Terminating:Retained`), as by an
            instance lifecycle policy whose termination hook was abandoned. A termination by id still ends them.
            Default: no.
        agents_start: Whether to start the agents of instances that enter service; a training job whose agents do not
            start fails with InternalServerError. Default: yes.
        switches_start: Whether to start their dead-man's switches. Default: yes.
        container_agents_connect: Whether the ECS container agents of instances reach ECS; without it they register no
            instance, start no task, and report nothing. Default: yes.
        images_pull: Whether images can be pulled that an instance does not have yet; otherwise tasks of ECS end with
            CannotPullContainerError, and training jobs fail with ClientError. Default: yes.
        job_start_seconds: How long SageMaker takes to provide a training job's instances, at most until other faults
            are injected. Default: 0.3, so that no code relies on an immediate start.
        job_capacity_seconds: How long an On-Demand training job waits for capacity before it fails with CapacityError;
            a Spot one waits for its MaxWaitTimeInSeconds. Default: 2400.
        job_stop_seconds: Time between SIGTERM and SIGKILL of a training job's containers. Default: 120, as on AWS.
        host_name_seconds: How long after their start the hosts of a training job cannot resolve each other's names.
            Default: 0.
        failing: Requests to AWS that fail or are late; the first matching fault applies. Default: none.

    Raises:
        LocalCloudError: If a time is negative.
    """

    launch_answer_seconds: float = LAUNCH_ANSWER_SECONDS
    launch_delay_seconds: float = 0
    refused: tuple[Refusal, ...] = field(default=())
    termination_delay_seconds: float = 0
    terminations_retained: bool = False
    agents_start: bool = True
    switches_start: bool = True
    container_agents_connect: bool = True
    images_pull: bool = True
    job_start_seconds: float = LAUNCH_ANSWER_SECONDS
    job_capacity_seconds: float = JOB_CAPACITY_SECONDS
    job_stop_seconds: float = JOB_STOP_SECONDS
    host_name_seconds: float = 0
    failing: tuple[ApiFault, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self) if item.name.endswith("_seconds")):
            if getattr(self, name) < 0:
                raise LocalCloudError(f"'{name}' must be at least 0, got {getattr(self, name)}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Faults:
        """
        Read the faults from their JSON form.

        Raises:
            LocalCloudError: If a key is unknown.
        """
        known = [item.name for item in fields(cls)]
        for name in value:
            if name not in known:
                raise LocalCloudError(f"'{name}' is not a fault; faults are {', '.join(known)}")
        several = {
            name: tuple(_read(kind, name, item) for item in value.get(name, ()))
            for name, kind in {"refused": Refusal, "failing": ApiFault}.items()
        }
        return cls(**{**value, **several})

    def to_json(self) -> dict[str, Any]:
        """Write the faults as `from_json` reads them."""
        return asdict(self)


def _is_node(caller: str) -> bool:
    return caller.startswith(NODE_PREFIXES)


def _read(kind: type[Any], name: str, value: Mapping[str, Any]) -> Any:
    unknown = set(value) - {item.name for item in fields(kind)}
    if unknown:
        raise LocalCloudError(f"'{name}' has no field {', '.join(sorted(unknown))}")
    return kind(**value)


@dataclass(kw_only=True)
class _Armed:
    """An active `ApiFault`, with the number of requests and the time that are left."""

    fault: ApiFault
    left: float
    until: float


class ActiveFaults:
    """The active faults of a cloud."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults = Faults()
        self._armed: list[_Armed] = []
        self._over = threading.Event()

    @property
    def faults(self) -> Faults:
        """The active faults."""
        with self._lock:
            return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        now = time.monotonic()
        with self._lock:
            self._over.set()
            self._over = threading.Event()
            self._faults = faults
            self._armed = [
                _Armed(
                    fault=fault,
                    left=float("inf") if fault.times is None else fault.times,
                    until=float("inf") if fault.seconds is None else now + fault.seconds,
                )
                for fault in faults.failing
            ]

    def apply(self, *, service: str, operation: str, caller: str, state: str = "") -> ApiFault | None:
        """
        Return the first fault that matches a request, after waiting for its delay; None if no fault matches.

        The request is counted before the delay.
        """
        with self._lock:
            now, over = time.monotonic(), self._over
            for armed in self._armed:
                fits = armed.fault.matches(service=service, operation=operation, caller=caller, state=state)
                if fits and armed.left > 0 and now < armed.until:
                    armed.left -= 1
                    break
            else:
                return None
        over.wait(armed.fault.delay_seconds)
        return armed.fault


ACTIVE_FAULTS: Final = ActiveFaults()
"""The active faults of this process, which serves one cloud."""
