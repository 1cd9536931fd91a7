"""
Who may use the local cloud: whoever signs with an access key that it gave out.

moto checks no signature, so the id of a key is what has to be secret: it is random. The administrator's is kept in a
file that only its owner reads, and all others are in the environment of the cloud's own processes alone.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Final

KEY_FILE: Final = "access-key"
"""In the home folder of a cloud: the administrator's key."""
NODE_ACCESS_KEY: Final = "node-"
"""Begins the access key of every node, before its instance's id."""
_RANDOM_BYTES: Final = 16


class AccessKeys:
    """The access keys that are good for this process's cloud."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self.administrator = self.issue("local")
        """The key of whoever started the cloud: deploys, tests and looks into everything."""

    def issue(self, name: str) -> str:
        """Make a key that nobody can guess; it begins with *name*, by which logs and faults know who asks."""
        key = f"{name}.{secrets.token_hex(_RANDOM_BYTES)}"
        self.admit(key)
        return key

    def admit(self, key: str) -> None:
        """Let *key*, which something else made, be good for the cloud."""
        self._known.add(key)

    def knows(self, key: str) -> bool:
        """Whether *key* was given out here, or by the cloud's own IAM and STS."""
        return key in self._known or _is_motos(key)


def caller_of(access_key: str) -> str:
    """Tell who asks, as faults name it: an instance's id, `workflow`, or else the access key's name."""
    # What follows the name is random, so that nobody can guess the key.
    return access_key.removeprefix(NODE_ACCESS_KEY).partition(".")[0]


def write_key(home: Path, key: str) -> None:
    """Leave the administrator's key in *home*, for its owner alone; nobody reads half of it."""
    partial = home / f"{KEY_FILE}.partial"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(key)
    partial.replace(home / KEY_FILE)


def read_key(home: Path) -> str:
    """
    Read the administrator's key of the cloud whose home is *home*.

    Raises:
        OSError: If no cloud runs there, or it is somebody else's.
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
"""One server process is one cloud; so are its keys."""
