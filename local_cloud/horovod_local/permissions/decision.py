"""
Whether a request is allowed, by all policies that apply to it.

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
"""Actions on resources that must let the account's identities in before what those are allowed counts."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """A statement that decided, and its patterns by which it was met."""

    statement: Statement
    actions: tuple[str, ...]
    resources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Applicable:
    """
    The policies that apply to a request.

    Args:
        identity: Of the principal.
        resource: Of the resource itself.
        session: Of the principal's session.
        endpoint: Of the VPC endpoint that the request comes through.
    """

    identity: Sequence[Policy] = ()
    resource: Policy | None = None
    session: Policy | None = None
    endpoint: Policy | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """
    What became of a request.

    Args:
        reason: Why not, as AWS's messages end; empty if it is allowed.
        uses: The statements that allowed or denied it.
    """

    reason: str = ""
    uses: tuple[Use, ...] = ()

    @property
    def is_allowed(self) -> bool:
        """Whether the request may go on."""
        return not self.reason


def decide(request: Request, policies: Applicable) -> Decision:
    """Decide whether *request* is allowed: an explicit deny ends it, else every kind of policy must agree."""
    kinds = {
        "identity-based": tuple(policies.identity),
        "resource-based": (policies.resource,) if policies.resource else (),
        "session": (policies.session,) if policies.session else (),
        "VPC endpoint": (policies.endpoint,) if policies.endpoint else (),
    }
    for kind, every in kinds.items():
        denied = _met(request, every, DENY)
        if denied:
            article = "an" if kind == "identity-based" else "a"
            return Decision(reason=f"with an explicit deny in {article} {kind} policy", uses=denied)
    uses: list[Use] = []
    if policies.endpoint is not None:
        opened = _met(request, kinds["VPC endpoint"], ALLOW)
        if not opened:
            return _refused(request, "VPC endpoint")
        uses += opened
    direct = _met(request, kinds["resource-based"], ALLOW)
    own = _met(request, kinds["identity-based"], ALLOW)
    if policies.session is not None and not _names_session(request.principal, direct):
        limited = _met(request, kinds["session"], ALLOW)
        if not limited:
            return _refused(request, "session")
        uses += limited
    if request.action.startswith(_DELEGATING):
        if direct:
            return Decision(uses=(*uses, *direct))
        delegated = _met(request, kinds["resource-based"], ALLOW, as_account=True)
        if policies.resource is not None and not delegated:
            return _refused(request, "resource-based")
        uses += delegated
    if own or direct:
        return Decision(uses=(*uses, *own, *direct))
    return _refused(request, "resource-based" if request.principal.service else "identity-based")


def _met(request: Request, policies: Iterable[Policy], effect: str, *, as_account: bool = False) -> tuple[Use, ...]:
    """Find the statements of *effect* that the request meets; *as_account*: those that name its whole account."""
    uses = []
    for policy in policies:
        for statement in policy.statements:
            if statement.effect != effect or not _is_for(statement, request.principal, as_account=as_account):
                continue
            by = statement.met(request)
            if by is not None:
                uses.append(Use(statement=statement, actions=by[0], resources=by[1]))
    return tuple(uses)


def _is_for(statement: Statement, principal: Principal, *, as_account: bool) -> bool:
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
            # The account stands for all of its principals where it is denied something; what it is allowed it hands on.
            if statement.effect == DENY or as_account:
                return True
        elif name in (principal.arn, principal.role):
            return True
    return False


def _names_session(principal: Principal, direct: Sequence[Use]) -> bool:
    """Whether the resource allows this very session, which its session policy then does not limit."""
    return any(("AWS", principal.arn) in use.statement.principals for use in direct)


def _refused(request: Request, kind: str) -> Decision:
    return Decision(reason=f"because no {kind} policy allows the {request.action} action")
