"""What outlives every run: the buckets."""

from __future__ import annotations

from typing import Any

from aws_cdk import Stack
from constructs import Construct

from cdk_horovod import TrainingStorage


class StorageStack(Stack):
    """
    Buckets for scripts and data, for models and receipts, and for logs.

    They stay when the stack is deleted: `cdk destroy` never costs a model.
    """

    def __init__(self, scope: Construct, id: str, **options: Any) -> None:
        super().__init__(scope, id, **options)
        self.storage = TrainingStorage(self, "Storage")
