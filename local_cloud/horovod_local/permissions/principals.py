"""
The principals of the account, identified by the access keys with which they sign.

The id of an access key is enough to identify its principal; see `horovod_local.shared.access_keys`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

from horovod_local.shared.access_keys import ACCESS_KEYS, NODE_ACCESS_KEY
from horovod_local.shared.faults import NODE_PREFIXES, WORKFLOW


@dataclass(frozen=True, kw_only=True)
class Principal:
    """
    The principal of a request.

    Args:
        arn: ARN of a role session or a user; empty for a service.
        account: Its account.
        role: ARN of the session's role; empty for a user.
        service: Service principal, such as `events.amazonaws.com`, if an AWS service acts on its own behalf.
        caller: Its name in faults: an instance's id, a training job's host, `workflow`, or ''.
        vpc: Id of the VPC from which a training job's host makes requests; empty for others.
        session_policy: Session policy as JSON; empty if there is none.
        is_administrator: Whether it may do whatever no policy denies.
    """

    arn: str
    account: str
    role: str = ""
    service: str = ""
    caller: str = ""
    vpc: str = ""
    session_policy: str = ""
    is_administrator: bool = False

    @property
    def name(self) -> str:
        """Its name in records: that of the role, the user or the service."""
        return self.service or (self.role or self.arn).rpartition("/")[2]


class Principals:
    """The principals that have an access key."""

    def __init__(self) -> None:
        self._known: dict[str, Principal] = {}
        self._workflows: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def assume(self, role: str, *, region: str, session: str, caller: str = "", vpc: str = "") -> str:
        """
        Make a session of a role, and return the id of its access key. The trust policy is not checked here.

        Args:
            role: ARN of the role.
            region: Region in which the session is used.
            session: Name of the session, which is part of its ARN.
            caller: See `Principal`.
            vpc: See `Principal`.
        """
        from moto.sts.models import sts_backends
        from moto.utilities.utils import get_partition

        account = role.split(":")[4]
        made = sts_backends[account][get_partition(region)].assume_role(region, session, role, "", 3600, "")
        if caller:
            # Faults identify the caller by the name of its access key.
            prefix = NODE_ACCESS_KEY if caller.startswith(NODE_PREFIXES) else ""
            made.access_key_id = ACCESS_KEYS.issue(prefix + caller)
        self._known[made.access_key_id] = Principal(arn=made.arn, account=account, role=role, caller=caller, vpc=vpc)
        return str(made.access_key_id)

    def workflow_key(self, role: str, *, region: str) -> str:
        """Return the id of the access key with which state machines of *role* sign."""
        with self._lock:
            if (role, region) not in self._workflows:
                self._workflows[role, region] = self.assume(role, region=region, session="states", caller=WORKFLOW)
            return self._workflows[role, region]

    def identify(self, access_key: str, *, account: str) -> Principal:
        """Return the principal of an access key; for an unknown key, a user without permissions."""
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
    """Return the principal of an AWS service that acts on its own behalf."""
    return Principal(arn="", account=account, service=name)


def _made_by_moto(access_key: str, account: str) -> Principal | None:
    """Return the principal of a key that AssumeRole or CreateAccessKey made; None if moto does not know it."""
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
"""The principals of this process, which serves one cloud."""
