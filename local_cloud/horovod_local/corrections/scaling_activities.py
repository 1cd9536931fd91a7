"""
The scaling activities of an Auto Scaling group.

"If the scaling event succeeds, the value of the StatusCode element in the response is Successful. If an attempt to
launch instances failed, the StatusCode value is Failed or Cancelled" (API Reference, DescribeScalingActivities). The
activity of a launch is listed from its request on; the instance is listed only when EC2 has answered.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

KEPT: Final = timedelta(weeks=6)
"""How long activities are listed: "only activities started within the last six weeks can be returned"."""
MAX_RECORDS: Final = 100
"""Activities in one answer: "The default value is 100 and the maximum value is 100"."""
SUCCESSFUL: Final = "Successful"
FAILED: Final = "Failed"
CANCELLED: Final = "Cancelled"
IN_PROGRESS: Final = "InProgress"
PRE_IN_SERVICE: Final = "PreInService"
WAITING_FOR_INSTANCE: Final = {"on-demand": "WaitingForInstanceId", "spot": "WaitingForSpotInstanceId"}
"""Status of a launch that EC2 has not answered yet, by market."""


@dataclass(kw_only=True)
class ScalingActivity:
    """A scaling activity, with the fields of the API's Activity."""

    auto_scaling_group_name: str
    description: str
    cause: str
    status_code: str
    status_message: str | None = None
    details: str = "{}"
    progress: int = 0
    activity_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    start_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    end_time: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has succeeded, failed or been cancelled."""
        return self.status_code in (SUCCESSFUL, FAILED, CANCELLED)

    def finish(self, status: str = SUCCESSFUL, *, why: str | None = None) -> None:
        """End it with *status*, unless it is over already."""
        if not self.is_over:
            self.status_code, self.status_message, self.progress = status, why, 100
            self.end_time = datetime.now(UTC)


def of(group: Any) -> list[ScalingActivity]:
    """Return the activities of *group*, newest first."""
    noted: list[ScalingActivity] = group.__dict__.setdefault("noted_activities", [])
    return noted


def in_order(activities: Iterable[ScalingActivity]) -> list[ScalingActivity]:
    """
    Sort *activities* as DescribeScalingActivities does, without those that are too old.

    "Activities are sorted by the start time. Activities still in progress appear first on the list."
    """
    since = datetime.now(UTC) - KEPT
    recent = [activity for activity in activities if activity.start_time >= since]
    # The sort is stable, so activities with the same start time stay newest first.
    return sorted(recent, key=lambda activity: (activity.is_over, -activity.start_time.timestamp()))


def note(
    group: Any, *, description: str, cause: str, status: str = IN_PROGRESS, why: str | None = None
) -> ScalingActivity:
    """Record a scaling activity of *group* that begins now."""
    activity = ScalingActivity(
        auto_scaling_group_name=group.name, description=description, cause=cause, status_code=IN_PROGRESS
    )
    if status in (SUCCESSFUL, FAILED, CANCELLED):
        activity.finish(status, why=why)
    else:
        activity.status_code = status
    of(group).insert(0, activity)
    return activity


def now() -> str:
    """Return the present time as the causes of activities spell it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
