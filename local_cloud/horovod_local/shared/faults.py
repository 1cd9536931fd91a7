"""Faults that a test or a demonstration can put into the local cloud; by default there are none."""

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
    "events",
    "pricing",
    "s3",
    "sns",
    "stepfunctions",
)
"""Services whose requests can fail, by the names of boto3's clients."""
NODE: Final = "node"
WORKFLOW: Final = "workflow"
CAPACITY: Final = "capacity"
QUOTA: Final = "quota"
THROTTLING: Final = "throttling"
REFUSALS: Final = (CAPACITY, QUOTA, THROTTLING)
"""Why EC2 refuses a launch."""
LAUNCH_ANSWER_SECONDS: Final = 0.3
"""Between a launch and EC2's answer, which takes seconds on AWS."""
TRANSACTION_CANCELED: Final = "TransactionCanceledException"
DROP: Final = "drop"
"""An error that is none: the connection ends without an answer."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """
    Launches that EC2 refuses: one that matches every field given fails.

    Args:
        instance_type: Such as `g5.xlarge`. Default: every type.
        market: `on-demand` or `spot`. Default: both.
        zone: Such as `eu-west-1a`. Default: every zone.
        why: One of `REFUSALS`: EC2 has no such capacity, the account's quota is used up, or EC2 was asked too often.

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
        """Whether a launch of this kind is refused."""
        wanted = {"instance_type": instance_type, "market": market, "zone": zone}
        return all(getattr(self, name) in (None, value) for name, value in wanted.items())


@dataclass(frozen=True, kw_only=True)
class ApiFault:
    """
    Requests to AWS that fail, or that are answered late.

    What an SDK asks again by itself counts again.

    Args:
        service: One of `SERVICES`, or `*`.
        operation: Name in the API, such as `GetItem`, or a pattern, such as `Describe*`. Default: every operation.
        caller: Who asks: `node` (agent and switch of any instance), the id of one instance, or `workflow` (any state
            machine). Default: everybody.
        state: Name of the state of a state machine that asks, or a pattern. Default: all, and who is no state machine.
        times: How many requests fail. Default: no limit.
        seconds: How long requests fail, from when the fault is put in force. Default: until other faults are.
        error: Code of the error in the answer. DynamoDB's `TransactionCanceledException` names a conflict as reason.
            `drop`: no answer, the connection ends. `None`: the request succeeds, after *delay_seconds*.
        status: HTTP status of the error.
        delay_seconds: How long a request waits before it fails or goes on, or until other faults are put in force.

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
        if self.caller is not None and self.caller not in (NODE, WORKFLOW) and not self.caller.startswith("i-"):
            raise LocalCloudError(f"'caller' must be {NODE}, {WORKFLOW} or an instance's id, got {self.caller}")
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
        """Whether a request is one that this fault is for."""
        return (
            (self.state is None or fnmatch.fnmatchcase(state, self.state))
            and self.service in ("*", service)
            and fnmatch.fnmatchcase(operation, self.operation)
            and (self.caller in (None, caller) or (self.caller == NODE and caller.startswith("i-")))
        )


@dataclass(frozen=True, kw_only=True)
class Faults:
    """
    What goes wrong from now on.

    Args:
        launch_answer_seconds: How long EC2 takes to answer a launch. Until then the group lists no instance, and
            DescribeScalingActivities an unfinished launch; one that is answered after the capacity was lowered is
            terminated then. Default: a moment, so that no answer is taken for granted.
        launch_delay_seconds: How long an instance stays pending before it is in service, or until other faults are put
            in force. Default: not at all.
        refused: Capacity that there is none of. Default: there is enough of everything.
        termination_delay_seconds: How long an instance that its group terminates still runs: `Terminating` in its
            group, `shutting-down` in EC2, its processes alive; or until other faults are put in force. Default: not at
            all.
        terminations_retained: Whether instances that a group terminates are retained instead (`Terminating:Retained`),
            as those of a group with an instance lifecycle policy whose termination hook is abandoned; who terminates
            one by its id ends it. Default: no.
        agents_start: Whether the agents of instances that enter service now are started. Default: yes.
        switches_start: Whether their dead-man's switches are started. Default: yes.
        failing: Requests to AWS that fail or are late; the first that matches acts. Default: none.

    Raises:
        LocalCloudError: If a delay is negative.
    """

    launch_answer_seconds: float = LAUNCH_ANSWER_SECONDS
    launch_delay_seconds: float = 0
    refused: tuple[Refusal, ...] = field(default=())
    termination_delay_seconds: float = 0
    terminations_retained: bool = False
    agents_start: bool = True
    switches_start: bool = True
    failing: tuple[ApiFault, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("launch_answer_seconds", "launch_delay_seconds", "termination_delay_seconds"):
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


def _read(kind: type[Any], name: str, value: Mapping[str, Any]) -> Any:
    unknown = set(value) - {item.name for item in fields(kind)}
    if unknown:
        raise LocalCloudError(f"'{name}' has no field {', '.join(sorted(unknown))}")
    return kind(**value)


@dataclass(kw_only=True)
class _Armed:
    """An `ApiFault` in force, and what is left of it."""

    fault: ApiFault
    left: float
    until: float


class FaultBox:
    """Holds the faults in force, for those who act them and the request that sets them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults = Faults()
        self._armed: list[_Armed] = []
        self._over = threading.Event()

    @property
    def faults(self) -> Faults:
        """The faults in force."""
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

    def strike(self, *, service: str, operation: str, caller: str, state: str = "") -> ApiFault | None:
        """
        Let the first fault act that is for this request: wait for its delay, and return it; None if there is none.

        The request counts when it comes, not after the delay.
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


IN_FORCE: Final = FaultBox()
"""One server process is one cloud, as moto's own state is; so is this."""
