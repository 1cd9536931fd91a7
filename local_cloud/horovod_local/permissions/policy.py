"""
Policies, read from their JSON, and what of them a request meets.

Source: IAM User Guide, "IAM JSON policy element reference".
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any, Final

from horovod_local.permissions.conditions import Condition, Context, NotUnderstoodError, read_conditions
from horovod_local.permissions.patterns import arn_matches, filled, text_matches
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
    One action on one resource, as its service asks whether it is allowed.

    Args:
        principal: Who asks.
        action: Such as `dynamodb:PutItem`.
        resource: Its ARN; `*` for an action that is on no resource.
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
        policy: Where it stands: owner and name of the policy.
        index: Its place there, from 0.
        sid: Its own name, if it has one.
        effect: `Allow` or `Deny`.
        actions: Patterns of actions, as written.
        except_actions: Whether it is about all actions but those.
        resources: Patterns of ARNs. None: the policy is a resource's own, or a trust policy, and names none.
        except_resources: Whether it is about all resources but those.
        principals: Kind and name of those that it is for; none in a policy of an identity.
        conditions: All must hold.
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

    def met(self, request: Request) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Give the patterns of action and resource by which *request* meets the statement; None if it does not."""
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
    """A policy: its statements, in their order."""

    name: str
    statements: tuple[Statement, ...]


@functools.lru_cache(maxsize=1024)
def read_policy(name: str, text: str) -> Policy:
    """
    Read a policy.

    Args:
        name: Owner and name, for records and errors.
        text: JSON.

    Raises:
        NotUnderstoodError: If it has something that is not evaluated here.
    """
    return Policy(name=name, statements=read_statements(json.loads(text), name=name))


def read_statements(document: Any, *, name: str) -> tuple[Statement, ...]:
    """Read the statements of a policy *document*; its texts may still be references of a template."""
    version = document.get("Version", "2008-10-17")
    unknown = set(document) - {"Version", "Id", "Statement"}
    if version not in _VERSIONS or unknown:
        raise NotUnderstoodError(f"{name}: {', '.join(sorted(unknown)) or f'version {version}'} is not evaluated here")
    return tuple(
        _statement(element, name=name, index=index) for index, element in enumerate(_listed(document["Statement"]))
    )


def _statement(element: dict[str, Any], *, name: str, index: int) -> Statement:
    where = f"{name}, statement {element.get('Sid') or index}"
    if unknown := set(element) - _ELEMENTS:
        raise NotUnderstoodError(f"{where}: the element {', '.join(sorted(unknown))} is not evaluated here")
    effect = element.get("Effect")
    if effect not in (ALLOW, DENY):
        raise NotUnderstoodError(f"{where}: Effect must be {ALLOW} or {DENY}, got {effect}")
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
        raise NotUnderstoodError(f"{where}: a principal of the kind {', '.join(sorted(unknown))} is not evaluated here")
    return tuple((kind, name) for kind in element for name in _texts(element[kind]))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(value: Any) -> tuple[str, ...]:
    # What a template has not resolved yet is as good as any text where a policy is only checked.
    return tuple(item if isinstance(item, str) else json.dumps(item, sort_keys=True) for item in _listed(value))


def _or_else(found: tuple[str, ...], every: tuple[str, ...], *, negated: bool) -> tuple[str, ...]:
    """Give what is met; of an element that says what not, all of it when nothing was found."""
    if not negated:
        return found
    return () if found else every


@functools.lru_cache(maxsize=4096)
def _actions_like(patterns: tuple[str, ...], action: str) -> tuple[str, ...]:
    # "The prefix and the action name are case insensitive."
    return tuple(pattern for pattern in patterns if text_matches(pattern.lower(), action.lower()))


def _is_about(pattern: str, request: Request) -> bool:
    resource = filled(pattern, request.context)
    return resource is not None and arn_matches(resource, request.resource)
