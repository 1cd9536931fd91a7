"""Record of the policy statements that decided requests, and of the requests that were denied."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from typing import Any, Final, Literal

from horovod_local.permissions.decision import Decision
from horovod_local.permissions.deployed_policies import all_policies
from horovod_local.permissions.policy import DENY, Statement
from horovod_local.permissions.principals import Principal

_Key = tuple[str, int, str, str]
"""Policy, index of the statement, pattern of the action, pattern of the resource."""


class Record:
    """Record of the decisions in one server."""

    def __init__(self) -> None:
        self._used: dict[_Key, set[str]] = defaultdict(set)
        self._denied: set[str] = set()
        self._lock = threading.Lock()

    def note(self, principal: Principal, operation: str, decision: Decision) -> None:
        """Record the statements that decided a request of *principal*."""
        with self._lock:
            for matched in decision.statements:
                for action, resource in itertools.product(matched.actions, matched.resources):
                    key = (matched.statement.policy, matched.statement.index, action, resource)
                    self._used[key].add(f"{principal.name}: {operation}")
            if not decision.is_allowed:
                self._denied.add(f"{principal.name}: {operation}: {decision.reason}")

    def denials(self) -> list[str]:
        """List the denied requests, as `principal: service.Operation: reason`."""
        with self._lock:
            return sorted(self._denied)

    def statements(self, account: str) -> list[dict[str, Any]]:
        """
        Describe every statement of the account's policies, as JSON.

        Each has `owner` (the kind of its owner), `policy`, `index`, `sid`, `effect`, and `actions` and `resources`: the
        patterns as written, each with the requests that matched it, as `principal: service.Operation`.
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
"""The record of this process, which serves one cloud."""


def unused(statements: list[dict[str, Any]]) -> list[str]:
    """List the patterns of actions and resources, in statements that allow, that no request has matched."""
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
