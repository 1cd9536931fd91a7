"""Declaration of corrections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Correction:
    """
    One deviation of moto from AWS, and the change that removes it.

    Args:
        name: Name of the function that installs it.
        moto: What the pinned moto does: a clause without its subject.
        aws: What AWS does instead: a clause without its subject.
        install: Patches moto in this process for good.
    """

    name: str
    moto: str
    aws: str
    install: Callable[[], None]

    @property
    def deviation(self) -> str:
        """Both behaviours in one sentence, for test reports."""
        return f"moto {self.moto}; AWS {self.aws}"


def correction(*, moto: str, aws: str) -> Callable[[Callable[[], None]], Correction]:
    """
    Declare the decorated function as a correction, which `corrections.apply` then runs.

    Args:
        moto: See `Correction`.
        aws: See `Correction`.
    """

    def declare(install: Callable[[], None]) -> Correction:
        return Correction(name=install.__name__, moto=moto, aws=aws, install=install)

    return declare
