"""
Who asks: the principals of the account, and the access keys that they sign with.

The id of an access key alone tells who asks; see `horovod_local.shared.access_keys`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

from horovod_local.shared.access_keys import ACCESS_KEYS, NODE_ACCESS_KEY
from horovod_local.shared.faults import WORKFLOW


@dataclass(frozen=True, kw_only=True)
class Principal:
    """
    Who asks.

    Args:
        arn: Of the session of a role, of a user, or of the account's root.
        account: That it belongs to.
        role: ARN of the role whose session this is; empty for a user.
        service: Such as `events.amazonaws.com`, if a service of AWS asks by itself; then it has no ARN.
        caller: As faults name it: an instance's id, `workflow`, or nothing.
        session_policy: What limits the session further; JSON.
        is_administrator: Whether it may do whatever no policy denies.
    """

    arn: str
    account: str
    role: str = ""
    service: str = ""
    caller: str = ""
    session_policy: str = ""
    is_administrator: bool = False

    @property
    def name(self) -> str:
        """The name in records: of the role, the user or the service."""
        return self.service or (self.role or self.arn).rpartition("/")[2]


class Principals:
    """Those who have an access key; kept by the server."""

    def __init__(self) -> None:
        self._known: dict[str, Principal] = {}
        self._workflows: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def assume(self, role: str, *, region: str, session: str, caller: str = "") -> str:
        """
        Give the session of a role an access key, and return its id.

        Args:
            role: ARN of the role; whether it trusts who uses it is the caller's to ask.
            region: Of who uses it.
            session: Name of the session, as it shows in the session's ARN.
            caller: See `Principal`.
        """
        from moto.sts.models import sts_backends
        from moto.utilities.utils import get_partition

        account = role.split(":")[4]
        made = sts_backends[account][get_partition(region)].assume_role(region, session, role, "", 3600, "")
        if caller:
            # Faults know by the key's name who asks.
            made.access_key_id = ACCESS_KEYS.issue((NODE_ACCESS_KEY if caller.startswith("i-") else "") + caller)
        self._known[made.access_key_id] = Principal(arn=made.arn, account=account, role=role, caller=caller)
        return str(made.access_key_id)

    def workflow_key(self, role: str, *, region: str) -> str:
        """Give the id of the access key with which state machines of *role* sign."""
        with self._lock:
            if (role, region) not in self._workflows:
                self._workflows[role, region] = self.assume(role, region=region, session="states", caller=WORKFLOW)
            return self._workflows[role, region]

    def who(self, access_key: str, *, account: str) -> Principal:
        """Tell whose key it is: a session's, a user's, the administrator's; of nobody with any permission otherwise."""
        known = self._known.get(access_key)
        if known is None:
            is_administrator = access_key == ACCESS_KEYS.administrator
            known = None if is_administrator else _made_by_moto(access_key, account)
            known = self._known[access_key] = known or _user(account, is_administrator=is_administrator)
        return known


def _user(account: str, *, is_administrator: bool) -> Principal:
    name = "administrator" if is_administrator else "nobody"
    return Principal(arn=f"arn:aws:iam::{account}:user/{name}", account=account, is_administrator=is_administrator)


def service(name: str, *, account: str) -> Principal:
    """Name a service of AWS that acts by itself."""
    return Principal(arn="", account=account, service=name)


def _made_by_moto(access_key: str, account: str) -> Principal | None:
    """Find a session that was made by AssumeRole, or a user whose key was made by CreateAccessKey."""
    from moto.iam.models import iam_backends
    from moto.sts.models import sts_backends

    session: Any
    for partition in ("aws", "aws-cn", "aws-us-gov"):
        session = sts_backends[account][partition].get_assumed_role_from_access_key(access_key)
        if session is not None:
            return Principal(
                arn=session.arn, account=account, role=session.role_arn, session_policy=session.policy or ""
            )
        user = iam_backends[account][partition].get_user_from_access_key_id(access_key)
        if user is not None:
            return Principal(arn=user.arn, account=account)
    return None


PRINCIPALS: Final = Principals()
"""Of the server's process, like the faults in force."""
