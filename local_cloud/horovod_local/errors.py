"""The exception that the local cloud raises for its users."""

from __future__ import annotations


class LocalCloudError(Exception):
    """The local cloud cannot do what was requested; the message says why in one sentence."""
