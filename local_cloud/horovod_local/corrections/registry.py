"""What a correction is, and how one is declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Correction:
    """
    One deviation of moto from AWS, and the change that removes it.

    Args:
        name: Name of the function that installs it.
        moto: What the pinned moto does, as a sentence.
        aws: What AWS does instead, as a sentence.
        install: Changes moto, in this process, for good.
    """

    name: str
    moto: str
    aws: str
    install: Callable[[], None]

    @property
    def deviation(self) -> str:
        """Both sides in one sentence, for people and test reports."""
        return f"moto {self.moto}; AWS {self.aws}"


def correction(*, moto: str, aws: str) -> Callable[[Callable[[], None]], Correction]:
    """
    Declare the decorated function as the correction of one deviation; it runs when `corrections.apply` does.

    Args:
        moto: What the pinned moto does, without its name.
        aws: What AWS does instead, without its name.
    """

    def declare(install: Callable[[], None]) -> Correction:
        return Correction(name=install.__name__, moto=moto, aws=aws, install=install)

    return declare
