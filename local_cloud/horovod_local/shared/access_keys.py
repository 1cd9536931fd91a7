"""
The access keys of the local cloud, which every request must carry.

moto checks no signatures, so the id of a key is itself the secret: it is random. The administrator's key is in a file
that only its owner can read; all other keys are only in the environment of the cloud's own processes.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Final

KEY_FILE: Final = "access-key"
"""File in a cloud's home folder that holds the administrator's key."""
NODE_ACCESS_KEY: Final = "node-"
"""Prefix of a node's access key, before the id of its instance or the name of its host and job."""
_RANDOM_BYTES: Final = 16


class AccessKeys:
    """The valid access keys of this process's cloud."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self.administrator = self.issue("local")
        """The key of the administrator, who deploys and tests."""

    def issue(self, name: str) -> str:
        """Make a random key. It begins with *name*, by which logs and faults identify the caller."""
        key = f"{name}.{secrets.token_hex(_RANDOM_BYTES)}"
        self.admit(key)
        return key

    def admit(self, key: str) -> None:
        """Make *key* valid."""
        self._known.add(key)

    def knows(self, key: str) -> bool:
        """Whether *key* is valid: made here, or by the cloud's own IAM or STS."""
        return key in self._known or _is_motos(key)


def caller_of(access_key: str) -> str:
    """Return the caller's name in faults: an instance's id, `workflow`, or else the name of the access key."""
    # The random part follows the name.
    return access_key.removeprefix(NODE_ACCESS_KEY).partition(".")[0]


def write_key(home: Path, key: str) -> None:
    """Write the administrator's key to *home*, atomically, readable only by its owner."""
    partial = home / f"{KEY_FILE}.partial"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(key)
    partial.replace(home / KEY_FILE)


def read_key(home: Path) -> str:
    """
    Read the administrator's key of the cloud whose home is *home*.

    Raises:
        OSError: If no cloud runs there, or it belongs to another user.
    """
    return (home / KEY_FILE).read_text(encoding="utf-8")


def _is_motos(key: str) -> bool:
    from moto.iam.models import iam_backends
    from moto.sts.models import sts_backends

    def holders(backends: Any) -> list[Any]:
        return [backend for partitions in list(backends.values()) for backend in list(partitions.values())]

    return any(backend.get_assumed_role_from_access_key(key) for backend in holders(sts_backends)) or any(
        backend.get_user_from_access_key_id(key) for backend in holders(iam_backends)
    )


ACCESS_KEYS: Final = AccessKeys()
"""The keys of this process, which serves one cloud."""
