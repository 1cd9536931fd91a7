"""An encrypted SNS topic for messages to people."""

from __future__ import annotations

from aws_cdk import RemovalPolicy
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct


def encrypted_topic(scope: Construct, *, description: str) -> sns.Topic:
    """
    Create a topic that accepts messages over TLS only, and its KMS key, which costs 1 USD a month.

    Args:
        scope: Scope of both, whose ids are `Topic` and `Key`.
        description: Description of the key.
    """
    key = kms.Key(
        scope,
        "Key",
        description=description,
        enable_key_rotation=True,
        # Only messages that wait for their delivery are encrypted with it.
        removal_policy=RemovalPolicy.DESTROY,
    )
    return sns.Topic(scope, "Topic", master_key=key, enforce_ssl=True)
