"""
Policies, parsed from JSON, and the patterns in them that match a request.

Source: IAM User Guide, "IAM JSON policy element reference".
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any, Final

from horovod_local.permissions.conditions import Condition, Context, UnsupportedPolicyError, read_conditions
from horovod_local.permissions.patterns import arn_matches, substitute, text_matches
from horovod_local.permissions.principals import Principal

ALLOW: Final = "Allow"
DENY: Final = "Deny"

_VERSIONS: Final = ("2012-10-17", "2008-10-17")
_ELEMENTS: Final = frozenset(
    {"Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition"},
)
_PRINCIPALS: Final = ("AWS", "Service")


@dataclass(frozen=True, kw_only=True)
class Request:
    """
    One action on one resource, for which a service needs a decision.

    Args:
        principal: The principal that makes the request.
        action: The IAM action, such as `dynamodb:PutItem`.
        resource: ARN of the resource; `*` for an action without resource-level permissions.
        context: Condition keys.
    """

    principal: Principal
    action: str
    resource: str
    context: Context


@dataclass(frozen=True, kw_only=True)
class Statement:
    """
    One statement of a policy.

    Args:
        policy: Owner and name of its policy.
        index: Its position in the policy, from 0.
        sid: Its `Sid`; '' if it has none.
        effect: `Allow` or `Deny`.
        actions: Patterns of actions, as written.
        except_actions: Whether *actions* are those of `NotAction`.
        resources: Patterns of ARNs. None: the statement names none, as in a trust policy.
        except_resources: Whether *resources* are those of `NotResource`.
        principals: Kind and name of its principals; empty in identity-based policies.
        conditions: Its conditions, which must all hold.
    """

    policy: str
    index: int
    sid: str
    effect: str
    actions: tuple[str, ...]
    except_actions: bool
    resources: tuple[str, ...] | None
    except_resources: bool
    principals: tuple[tuple[str, str], ...]
    conditions: tuple[Condition, ...]

    def matched_patterns(self, request: Request) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Return the patterns of actions and resources that match *request*; None if the statement does not match."""
        actions = _or_else(_actions_like(self.actions, request.action), self.actions, negated=self.except_actions)
        if not actions:
            return None
        resources: tuple[str, ...] = ("*",)
        if self.resources is not None:
            found = tuple(pattern for pattern in self.resources if _is_about(pattern, request))
            resources = _or_else(found, self.resources, negated=self.except_resources)
        if not resources or not all(condition.holds(request.context) for condition in self.conditions):
            return None
        return actions, resources


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy with its statements."""

    name: str
    statements: tuple[Statement, ...]


@functools.lru_cache(maxsize=1024)
def read_policy(name: str, text: str) -> Policy:
    """
    Read a policy.

    Args:
        name: Owner and name, for records and error messages.
        text: The policy as JSON.

    Raises:
        UnsupportedPolicyError: If it has an element that is not supported.
    """
    return Policy(name=name, statements=read_statements(json.loads(text), name=name))


def read_statements(document: Any, *, name: str) -> tuple[Statement, ...]:
    """Read the statements of a policy *document*, whose texts may still be unresolved references of a template."""
    version = document.get("Version", "2008-10-17")
    unknown = set(document) - {"Version", "Id", "Statement"}
    if version not in _VERSIONS or unknown:
        raise UnsupportedPolicyError(f"{name}: {', '.join(sorted(unknown)) or f'version {version}'} is not supported")
    return tuple(
        _statement(element, name=name, index=index) for index, element in enumerate(_listed(document["Statement"]))
    )


def _statement(element: dict[str, Any], *, name: str, index: int) -> Statement:
    where = f"{name}, statement {element.get('Sid') or index}"
    if unknown := set(element) - _ELEMENTS:
        raise UnsupportedPolicyError(f"{where}: the element {', '.join(sorted(unknown))} is not supported")
    effect = element.get("Effect")
    if effect not in (ALLOW, DENY):
        raise UnsupportedPolicyError(f"{where}: Effect must be {ALLOW} or {DENY}, got {effect}")
    resources = element.get("Resource", element.get("NotResource"))
    return Statement(
        policy=name,
        index=index,
        sid=element.get("Sid", ""),
        effect=effect,
        actions=_texts(element.get("Action", element.get("NotAction"))),
        except_actions="NotAction" in element,
        resources=None if resources is None else _texts(resources),
        except_resources="NotResource" in element,
        principals=_read_principals(element.get("Principal"), where=where),
        conditions=read_conditions(element.get("Condition"), where=where),
    )


def _read_principals(element: Any, *, where: str) -> tuple[tuple[str, str], ...]:
    if element is None:
        return ()
    if element == "*":
        return (("AWS", "*"),)
    if unknown := set(element) - set(_PRINCIPALS):
        raise UnsupportedPolicyError(f"{where}: a principal of the type {', '.join(sorted(unknown))} is not supported")
    return tuple((kind, name) for kind in element for name in _texts(element[kind]))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(value: Any) -> tuple[str, ...]:
    # An unresolved reference of a template is kept as JSON text, which is enough to check the policy.
    return tuple(item if isinstance(item, str) else json.dumps(item, sort_keys=True) for item in _listed(value))


def _or_else(found: tuple[str, ...], every: tuple[str, ...], *, negated: bool) -> tuple[str, ...]:
    """Return the matching patterns; of `NotAction` or `NotResource`, all patterns if none matches."""
    if not negated:
        return found
    return () if found else every


@functools.lru_cache(maxsize=4096)
def _actions_like(patterns: tuple[str, ...], action: str) -> tuple[str, ...]:
    # "The prefix and the action name are case insensitive."
    return tuple(pattern for pattern in patterns if text_matches(pattern.lower(), action.lower()))


def _is_about(pattern: str, request: Request) -> bool:
    resource = substitute(pattern, request.context)
    return resource is not None and arn_matches(resource, request.resource)
