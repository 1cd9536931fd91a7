"""The stack of the buckets, which outlive all runs."""

from __future__ import annotations

from typing import Any

from aws_cdk import Stack
from constructs import Construct

from cdk_horovod import TrainingStorage


class StorageStack(Stack):
    """
    Buckets for scripts and data, for models and receipts, and for logs.

    They are retained when the stack is deleted, so `cdk destroy` never deletes a model.
    """

    def __init__(self, scope: Construct, id: str, **options: Any) -> None:
        super().__init__(scope, id, **options)
        self.storage = TrainingStorage(self, "Storage")
