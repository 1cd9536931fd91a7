"""A topic for people: encrypted, and reachable over TLS only."""

from __future__ import annotations

from aws_cdk import RemovalPolicy
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct


def encrypted_topic(scope: Construct, *, description: str) -> sns.Topic:
    """
    Create a topic that takes messages over TLS only, and its KMS key, which costs 1 USD a month.

    Args:
        scope: Where both belong, as `Topic` and `Key`.
        description: Of the key.
    """
    key = kms.Key(
        scope,
        "Key",
        description=description,
        enable_key_rotation=True,
        # Nothing is stored under it: a message that waits for its delivery is all that it protects.
        removal_policy=RemovalPolicy.DESTROY,
    )
    return sns.Topic(scope, "Topic", master_key=key, enforce_ssl=True)
