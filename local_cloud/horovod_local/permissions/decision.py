"""
Decides whether a request is allowed by all policies that apply to it.

Source: IAM User Guide, "Policy evaluation logic", "How AWS enforcement code logic evaluates requests to allow or deny
access" and "Policy evaluation for requests within a single account"; AWS KMS Developer Guide, "Key policies in AWS KMS"
(a key's policy must let the account's IAM policies in); AWS PrivateLink Guide, "Control access to VPC endpoints using
endpoint policies". Messages: IAM User Guide, "Troubleshoot access denied error messages".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from horovod_local.permissions.patterns import arn_matches
from horovod_local.permissions.policy import ALLOW, DENY, Policy, Request, Statement
from horovod_local.permissions.principals import Principal

_DELEGATING: Final = ("kms:", "sts:AssumeRole")
"""Actions whose identity-based policies count only if the resource's policy admits the account."""


@dataclass(frozen=True, kw_only=True)
class MatchedStatement:
    """A statement that a request matches, with the patterns of actions and resources that match."""

    statement: Statement
    actions: tuple[str, ...]
    resources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ApplicablePolicies:
    """
    The policies that apply to a request.

    Args:
        identity: Identity-based policies of the principal.
        resource: Resource-based policy.
        session: Session policy.
        endpoint: Policy of the VPC endpoint through which the request comes.
    """

    identity: Sequence[Policy] = ()
    resource: Policy | None = None
    session: Policy | None = None
    endpoint: Policy | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """
    The decision on a request.

    Args:
        reason: Why it is denied, worded as the end of AWS's message; empty if it is allowed.
        statements: The statements that allowed or denied it.
    """

    reason: str = ""
    statements: tuple[MatchedStatement, ...] = ()

    @property
    def is_allowed(self) -> bool:
        """Whether the request is allowed."""
        return not self.reason


def decide(request: Request, policies: ApplicablePolicies) -> Decision:
    """Decide whether *request* is allowed: no policy denies it, and every kind of policy that limits it allows it."""
    kinds = {
        "identity-based": tuple(policies.identity),
        "resource-based": (policies.resource,) if policies.resource else (),
        "session": (policies.session,) if policies.session else (),
        "VPC endpoint": (policies.endpoint,) if policies.endpoint else (),
    }
    for kind, every in kinds.items():
        denied = _matching(request, every, DENY)
        if denied:
            article = "an" if kind == "identity-based" else "a"
            return Decision(reason=f"with an explicit deny in {article} {kind} policy", statements=denied)
    matched: list[MatchedStatement] = []
    if policies.endpoint is not None:
        opened = _matching(request, kinds["VPC endpoint"], ALLOW)
        if not opened:
            return _implicit_deny(request, "VPC endpoint")
        matched += opened
    direct = _matching(request, kinds["resource-based"], ALLOW)
    own = _matching(request, kinds["identity-based"], ALLOW)
    if policies.session is not None and not _names_session(request.principal, direct):
        limited = _matching(request, kinds["session"], ALLOW)
        if not limited:
            return _implicit_deny(request, "session")
        matched += limited
    if request.action.startswith(_DELEGATING):
        if direct:
            return Decision(statements=(*matched, *direct))
        delegated = _matching(request, kinds["resource-based"], ALLOW, as_account=True)
        if policies.resource is not None and not delegated:
            return _implicit_deny(request, "resource-based")
        matched += delegated
    if own or direct:
        return Decision(statements=(*matched, *own, *direct))
    return _implicit_deny(request, "resource-based" if request.principal.service else "identity-based")


def _matching(
    request: Request, policies: Iterable[Policy], effect: str, *, as_account: bool = False
) -> tuple[MatchedStatement, ...]:
    """Return the statements of *effect* that match; with *as_account*, also those that name the whole account."""
    matched = []
    for policy in policies:
        for statement in policy.statements:
            if statement.effect != effect or not _names_principal(statement, request.principal, as_account=as_account):
                continue
            patterns = statement.matched_patterns(request)
            if patterns is not None:
                matched.append(MatchedStatement(statement=statement, actions=patterns[0], resources=patterns[1]))
    return tuple(matched)


def _names_principal(statement: Statement, principal: Principal, *, as_account: bool) -> bool:
    if not statement.principals:
        return True
    account_names = (principal.account, f"arn:*:iam::{principal.account}:root")
    for kind, name in statement.principals:
        if kind == "Service":
            if principal.service == name:
                return True
        elif name == "*":
            # "If you specify * in an Allow, everybody is meant, anonymous users and AWS services included."
            return True
        elif principal.service:
            continue
        elif name == account_names[0] or arn_matches(account_names[1], name):
            # A denied account denies all of its principals; an allowed account only delegates to its policies.
            if statement.effect == DENY or as_account:
                return True
        elif name in (principal.arn, principal.role):
            return True
    return False


def _names_session(principal: Principal, direct: Sequence[MatchedStatement]) -> bool:
    """Whether the resource's policy names this very session, which a session policy then does not limit."""
    return any(("AWS", principal.arn) in matched.statement.principals for matched in direct)


def _implicit_deny(request: Request, kind: str) -> Decision:
    return Decision(reason=f"because no {kind} policy allows the {request.action} action")
