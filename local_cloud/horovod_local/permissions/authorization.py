"""In front of the services: refuses what no policy allows, and records which statements allowed the rest."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qs

from horovod_local.permissions import stored
from horovod_local.permissions.conditions import Context, NotUnderstoodError
from horovod_local.permissions.decision import Applicable, Decision, decide
from horovod_local.permissions.policy import Request
from horovod_local.permissions.principals import Principal, Principals
from horovod_local.permissions.record import Record
from horovod_local.permissions.requests import Asked, Check, UnknownOperationError, checks
from horovod_local.permissions.requests.autoscaling import TEMPLATE
from horovod_local.shared.api_calls import ApiCall, ErrorAnswer, read_body, read_call, refuse
from horovod_local.shared.api_faults import Application, StartResponse

_ENDPOINTS: Final = {"stepfunctions": "states", "cloudwatch": "monitoring"}
"""Names of endpoint services, where they are not boto3's."""
_CODES: Final = {
    "autoscaling": ("AccessDenied", 403),
    "cloudformation": ("AccessDenied", 403),
    "cloudwatch": ("AccessDenied", 403),
    "ec2": ("UnauthorizedOperation", 403),
    "s3": ("AccessDenied", 403),
    "sns": ("AuthorizationError", 403),
    "sts": ("AccessDenied", 403),
}
"""How services say that they deny; all others answer `AccessDeniedException` with status 400."""

_log = logging.getLogger(__name__)


class Permissions:
    """
    Answers the requests that are denied, and hands on all others.

    Args:
        aws: Answers what is allowed.
        principals: Tells whose access key signed.
        record: Takes down the statements that decided.
        account: The cloud's.
    """

    def __init__(self, aws: Application, *, principals: Principals, record: Record, account: str) -> None:
        self._aws = aws
        self._principals = principals
        self._record = record
        self._account = account

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        call = read_call(environ)
        if call is None:
            return (
                self._aws(environ, start_response) if self._may_be_unread(environ) else _forbid(environ, start_response)
            )
        denied = self._denied(call, environ)
        if denied is None:
            return self._aws(environ, start_response)
        # What is not read now would be taken for the connection's next request.
        read_body(environ)
        start_response(denied.status, denied.headers)
        return [denied.body]

    def _may_be_unread(self, environ: dict[str, Any]) -> bool:
        """Whether a request goes on that is not signed in a header: presigned by version 2 only the administrator's."""
        keys = parse_qs(str(environ.get("QUERY_STRING", ""))).get("AWSAccessKeyId", ())
        return all(self._principals.who(key, account=self._account).is_administrator for key in keys)

    def _denied(self, call: ApiCall, environ: dict[str, Any]) -> ErrorAnswer | None:
        principal = self._principals.who(call.access_key, account=self._account)
        asked = Asked(call=call, account=self._account, environ=environ)
        method = environ["REQUEST_METHOD"]
        try:
            for check in checks(asked):
                if check.resource != "*" and check.resource.count(":") < 5:
                    # No ARN: there is nothing that could be permitted, and the service says what is wrong.
                    return None
                decision = self._decide(principal, asked, check)
                if not decision.is_allowed:
                    code, status = _CODES.get(call.service, ("AccessDeniedException", 400))
                    message = _message(principal, call, check, decision)
                    _log.info("denied: %s.%s: %s", call.service, call.operation, message)
                    return refuse(call, method=method, code=code, status=status, message=message)
        except (UnknownOperationError, NotUnderstoodError, NotImplementedError) as error:
            if principal.is_administrator:
                # What deploys and tests may ask for anything.
                return None
            _log.error("%s asked what cannot be decided: %s", principal.name, error)
            return refuse(call, method=method, code="NotDecidedByTheLocalCloud", status=400, message=str(error))
        return None

    def _decide(self, principal: Principal, asked: Asked, check: Check) -> Decision:
        endpoint = (
            None
            if check.via
            else stored.endpoint(principal, service=_ENDPOINTS.get(asked.call.service, asked.call.service))
        )
        request = Request(
            principal=principal,
            action=check.action,
            resource=check.resource,
            context={
                **_global_keys(principal, asked.call.region, check),
                **(
                    {"aws:sourcevpce": (endpoint[0]["id"],), "aws:sourcevpc": (endpoint[0]["vpc"],)} if endpoint else {}
                ),
                **check.context,
            },
        )
        decision = decide(
            request,
            Applicable(
                identity=stored.identity_policies(principal),
                resource=_own_policy(check),
                session=stored.session_policy(principal),
                endpoint=endpoint[1] if endpoint else None,
            ),
        )
        if not principal.is_administrator:
            self._record.note(principal, f"{asked.call.service}.{asked.call.operation}", decision)
        return decision


def _forbid(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    read_body(environ)
    start_response("403 Forbidden", [("Content-Type", "text/plain")])
    return [b"the local cloud evaluates no permissions for signatures of version 2\n"]


def _own_policy(check: Check) -> Any:
    """Find the resource's own policy, where the action asks it: a trust policy is about AssumeRole alone."""
    if check.resource == "*" or (check.resource.split(":")[2] == "iam" and check.action != "sts:AssumeRole"):
        return None
    return stored.resource_policy(check.resource)


def _global_keys(principal: Principal, region: str, check: Check) -> Context:
    """Give the condition keys that every request has (IAM User Guide, "AWS global condition context keys")."""
    owner = check.resource.split(":")[4] if check.resource != "*" else principal.account
    keys: dict[str, tuple[str, ...]] = {
        "aws:principalaccount": (principal.account,),
        "aws:principalarn": (principal.role or principal.arn,),
        "aws:principalisawsservice": ("false",),
        "aws:principaltype": ("AssumedRole" if principal.role else "User",),
        "aws:requestedregion": (region,),
        # An ARN of S3 names no account; there is one here.
        "aws:resourceaccount": (owner or principal.account,),
        # The local cloud speaks HTTP on loopback in the place of HTTPS.
        "aws:securetransport": ("true",),
        # In the policy that every topic has from the start; services that act for themselves do not send it (Amazon SNS
        # Developer Guide, "Example cases for Amazon SNS access control").
        "aws:sourceowner": (principal.account,),
        "aws:viaawsservice": (str(bool(check.via)).lower(),),
    }
    if check.action.startswith("kms:"):
        # AWS KMS Developer Guide, "AWS KMS condition keys".
        keys["kms:calleraccount"] = (principal.account,)
    if check.action.startswith("s3:"):
        # Service Authorization Reference, "Condition keys for Amazon S3"; there is one account here.
        keys["s3:resourceaccount"] = (principal.account,)
    if check.via:
        return keys
    return {**keys, **{name: (value,) for name, value in stored.instance_facts(principal).items()}}


def _message(principal: Principal, call: ApiCall, check: Check, decision: Decision) -> str:
    """Write the message in AWS's form (IAM User Guide, "Troubleshoot access denied error messages")."""
    quote = '"' if call.service == "s3" else ""
    on = "" if check.resource == "*" else f" on resource: {quote}{check.resource}{quote}"
    message = f"User: {principal.arn} is not authorized to perform: {check.action}{on} {decision.reason}"
    if check.via == TEMPLATE:
        template = next(iter(check.context.get("ec2:launchtemplate", ("",)))).rpartition("/")[2]
        return f"You are not authorized to use launch template: {template}. {message}"
    return f"You are not authorized to perform this operation. {message}" if call.service == "ec2" else message
