"""What the local cloud raises for people to read."""

from __future__ import annotations


class LocalCloudError(Exception):
    """The local cloud cannot do what was asked; the message is one sentence that says why."""
