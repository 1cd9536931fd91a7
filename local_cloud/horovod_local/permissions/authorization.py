"""WSGI middleware that refuses requests which no policy allows, and records the statements that decided."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qs

from horovod_local.permissions import deployed_policies
from horovod_local.permissions.conditions import Context, UnsupportedPolicyError
from horovod_local.permissions.decision import ApplicablePolicies, Decision, decide
from horovod_local.permissions.policy import Request
from horovod_local.permissions.principals import Principal, Principals
from horovod_local.permissions.record import Record
from horovod_local.permissions.requests import (
    RequiredPermission,
    ServiceRequest,
    UnknownOperationError,
    required_permissions,
)
from horovod_local.permissions.requests.autoscaling import TEMPLATE
from horovod_local.shared.api_calls import ApiCall, ErrorAnswer, error_answer, read_body, read_call
from horovod_local.shared.api_faults import Application, StartResponse

_ENDPOINTS: Final = {"stepfunctions": "states", "cloudwatch": "monitoring", "sagemaker": "sagemaker.api"}
"""Name of the VPC endpoint service, where it differs from boto3's name of the service."""
_CODES: Final = {
    "autoscaling": ("AccessDenied", 403),
    "cloudformation": ("AccessDenied", 403),
    "cloudwatch": ("AccessDenied", 403),
    "ec2": ("UnauthorizedOperation", 403),
    "s3": ("AccessDenied", 403),
    "sns": ("AuthorizationError", 403),
    "sts": ("AccessDenied", 403),
}
"""Error code and status of a denial, by service; all others answer `AccessDeniedException` with 400."""

_log = logging.getLogger(__name__)


class Authorization:
    """
    Refuses denied requests, and passes on all others.

    Args:
        aws: Answers the allowed requests.
        principals: Identifies the principal by its access key.
        record: Record of the statements that decided.
        account: The cloud's account.
    """

    def __init__(self, aws: Application, *, principals: Principals, record: Record, account: str) -> None:
        self._aws = aws
        self._principals = principals
        self._record = record
        self._account = account

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        call = read_call(environ)
        if call is None:
            answer = self._aws if self._is_allowed_unsigned(environ) else _forbid
            return answer(environ, start_response)
        denied = self._denied(call, environ)
        if denied is None:
            return self._aws(environ, start_response)
        # An unread body would be taken for the connection's next request.
        read_body(environ)
        start_response(denied.status, denied.headers)
        return [denied.body]

    def _is_allowed_unsigned(self, environ: dict[str, Any]) -> bool:
        """Whether to allow a request without signature version 4; with version 2 only the administrator may presign."""
        keys = parse_qs(str(environ.get("QUERY_STRING", ""))).get("AWSAccessKeyId", ())
        return all(self._principals.identify(key, account=self._account).is_administrator for key in keys)

    def _denied(self, call: ApiCall, environ: dict[str, Any]) -> ErrorAnswer | None:
        principal = self._principals.identify(call.access_key, account=self._account)
        service_request = ServiceRequest(call=call, account=self._account, environ=environ)
        method = environ["REQUEST_METHOD"]
        try:
            for permission in required_permissions(service_request):
                if permission.resource != "*" and permission.resource.count(":") < 5:
                    # A malformed ARN cannot be evaluated; the service itself answers with the error.
                    return None
                decision = self._decide(principal, call, permission)
                if not decision.is_allowed:
                    code, status = _CODES.get(call.service, ("AccessDeniedException", 400))
                    message = _message(principal, call, permission, decision)
                    _log.info("denied: %s.%s: %s", call.service, call.operation, message)
                    return error_answer(call, method=method, code=code, status=status, message=message)
        except (UnknownOperationError, UnsupportedPolicyError, NotImplementedError) as error:
            if principal.is_administrator:
                # The administrator may use any operation.
                return None
            _log.error("no decision on a request of %s: %s", principal.name, error)
            return error_answer(call, method=method, code="NotDecidedByTheLocalCloud", status=400, message=str(error))
        return None

    def _decide(self, principal: Principal, call: ApiCall, permission: RequiredPermission) -> Decision:
        endpoint = (
            None
            if permission.via
            else deployed_policies.endpoint(principal, service=_ENDPOINTS.get(call.service, call.service))
        )
        request = Request(
            principal=principal,
            action=permission.action,
            resource=permission.resource,
            context={
                **_global_keys(principal, call.region, permission),
                **(
                    {"aws:sourcevpce": (endpoint[0]["id"],), "aws:sourcevpc": (endpoint[0]["vpc"],)} if endpoint else {}
                ),
                **permission.context,
            },
        )
        decision = decide(
            request,
            ApplicablePolicies(
                identity=deployed_policies.identity_policies(principal),
                resource=_own_policy(permission),
                session=deployed_policies.session_policy(principal),
                endpoint=endpoint[1] if endpoint else None,
            ),
        )
        if not principal.is_administrator:
            self._record.note(principal, f"{call.service}.{call.operation}", decision)
        return decision


def _forbid(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    read_body(environ)
    start_response("403 Forbidden", [("Content-Type", "text/plain")])
    return [b"the local cloud evaluates no permissions of requests signed with version 2\n"]


def _own_policy(permission: RequiredPermission) -> Any:
    """Return the resource-based policy for the action; a trust policy applies to AssumeRole only."""
    if permission.resource == "*":
        return None
    if permission.resource.split(":")[2] == "iam" and permission.action != "sts:AssumeRole":
        return None
    return deployed_policies.resource_policy(permission.resource)


def _global_keys(principal: Principal, region: str, permission: RequiredPermission) -> Context:
    """Return the condition keys of every request (IAM User Guide, "AWS global condition context keys")."""
    owner = permission.resource.split(":")[4] if permission.resource != "*" else principal.account
    keys: dict[str, tuple[str, ...]] = {
        "aws:principalaccount": (principal.account,),
        "aws:principalarn": (principal.role or principal.arn,),
        "aws:principalisawsservice": ("false",),
        "aws:principaltype": ("AssumedRole" if principal.role else "User",),
        "aws:requestedregion": (region,),
        # S3's ARNs have no account; there is only one here.
        "aws:resourceaccount": (owner or principal.account,),
        # The local cloud's HTTP on loopback counts as TLS.
        "aws:securetransport": ("true",),
        # The default topic policy uses this key. Services that act on their own behalf do not send it (Amazon SNS
        # Developer Guide, "Example cases for Amazon SNS access control").
        "aws:sourceowner": (principal.account,),
        "aws:viaawsservice": (str(bool(permission.via)).lower(),),
    }
    if permission.action.startswith("kms:"):
        # AWS KMS Developer Guide, "AWS KMS condition keys".
        keys["kms:calleraccount"] = (principal.account,)
    if permission.action.startswith("s3:"):
        # Service Authorization Reference, "Condition keys for Amazon S3".
        keys["s3:resourceaccount"] = (principal.account,)
    if permission.via:
        return keys
    return {**keys, **{name: (value,) for name, value in deployed_policies.instance_facts(principal).items()}}


def _message(principal: Principal, call: ApiCall, permission: RequiredPermission, decision: Decision) -> str:
    """Word the denial as AWS does (IAM User Guide, "Troubleshoot access denied error messages")."""
    quote = '"' if call.service == "s3" else ""
    on = "" if permission.resource == "*" else f" on resource: {quote}{permission.resource}{quote}"
    message = f"User: {principal.arn} is not authorized to perform: {permission.action}{on} {decision.reason}"
    if permission.via == TEMPLATE:
        template = next(iter(permission.context.get("ec2:launchtemplate", ("",)))).rpartition("/")[2]
        return f"You are not authorized to use launch template: {template}. {message}"
    return f"You are not authorized to perform this operation. {message}" if call.service == "ec2" else message
