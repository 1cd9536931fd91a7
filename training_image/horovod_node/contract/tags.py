"""Tags of a run's instances. They can be activated as cost allocation tags in AWS Billing."""

from __future__ import annotations

from typing import Final

RUN_TAG: Final = "cdk-horovod:run"
OWNER_TAG: Final = "cdk-horovod:owner"
PROJECT_TAG: Final = "cdk-horovod:project"

TAG_RULE: Final = "must be 1 to 128 letters (a-z, A-Z), digits, spaces and any of _.:/=+@-"
TAG_PATTERN: Final = r"^[A-Za-z0-9 _.:/=+@-]{1,128}$"
"""Tag values that EC2 and Auto Scaling accept in every Region; of all kinds of spaces only ' '."""
