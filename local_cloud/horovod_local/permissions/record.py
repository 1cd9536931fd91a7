"""Which statements of the deployed policies decided requests, and whose."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from typing import Any, Final, Literal

from horovod_local.permissions.decision import Decision
from horovod_local.permissions.policy import DENY, Statement
from horovod_local.permissions.principals import Principal
from horovod_local.permissions.stored import all_policies

_Key = tuple[str, int, str, str]
"""Policy, index of the statement, patterns of action and resource."""


class Record:
    """The record of one server."""

    def __init__(self) -> None:
        self._used: dict[_Key, set[str]] = defaultdict(set)
        self._denied: set[str] = set()
        self._lock = threading.Lock()

    def note(self, principal: Principal, operation: str, decision: Decision) -> None:
        """Take down the statements by which a request of *principal* was decided."""
        with self._lock:
            for use in decision.uses:
                for action, resource in itertools.product(use.actions, use.resources):
                    key = (use.statement.policy, use.statement.index, action, resource)
                    self._used[key].add(f"{principal.name}: {operation}")
            if not decision.is_allowed:
                self._denied.add(f"{principal.name}: {operation}: {decision.reason}")

    def denials(self) -> list[str]:
        """List what was denied: who asked for which operation, and why not."""
        with self._lock:
            return sorted(self._denied)

    def statements(self, account: str) -> list[dict[str, Any]]:
        """
        Describe every statement of the account's policies, as JSON.

        Each has `owner` (the kind of what it belongs to), `policy`, `index`, `sid`, `effect`, and `actions` and
        `resources`: the patterns as written, each with those who used it, as `role: service.Operation`.
        """
        with self._lock:
            used = {key: sorted(who) for key, who in self._used.items()}
        return [
            {
                "owner": owner,
                "policy": policy.name,
                "index": statement.index,
                "sid": statement.sid,
                "effect": statement.effect,
                "actions": _by_pattern(used, statement, place=2, patterns=statement.actions),
                "resources": _by_pattern(used, statement, place=3, patterns=statement.resources or ("*",)),
            }
            for owner, policy in all_policies(account)
            for statement in policy.statements
        ]


RECORD: Final = Record()
"""Of the server's process."""


def unused(statements: list[dict[str, Any]]) -> list[str]:
    """Name what no request used: a statement, or single actions or resources of one; statements that deny left out."""
    found = []
    for statement in statements:
        if statement["effect"] == DENY:
            continue
        name = f"{statement['policy']}[{statement['index']}]"
        for part in ("actions", "resources"):
            found += [f"{name} {pattern}" for pattern, who in statement[part].items() if not who]
    return found


def _by_pattern(
    used: dict[_Key, list[str]], statement: Statement, *, place: Literal[2, 3], patterns: tuple[str, ...]
) -> dict[str, list[str]]:
    by_pattern: dict[str, set[str]] = {pattern: set() for pattern in patterns}
    for key, who in used.items():
        if key[:2] == (statement.policy, statement.index) and key[place] in by_pattern:
            by_pattern[key[place]].update(who)
    return {pattern: sorted(who) for pattern, who in by_pattern.items()}
