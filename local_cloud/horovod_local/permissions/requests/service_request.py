"""A request as its service reads it, and the permissions that it needs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from horovod_local.permissions.conditions import Context
from horovod_local.shared.api_calls import ApiCall, read_body

_FORM: Final = "application/x-www-form-urlencoded"


class UnknownOperationError(Exception):
    """The permissions that an operation needs are not declared in this package."""


@dataclass(frozen=True, kw_only=True)
class RequiredPermission:
    """
    One permission that a request needs.

    Args:
        action: IAM action, such as `dynamodb:PutItem`.
        resource: ARN of the resource. Default: the action has no resource-level permissions.
        context: Condition keys in addition to those of every request.
        via: The service that makes the call on the principal's behalf, such as `s3`. Default: the principal itself.
    """

    action: str
    resource: str = "*"
    context: Context = field(default_factory=dict)
    via: str = ""


@dataclass(frozen=True, kw_only=True)
class ServiceRequest:
    """
    A request to a service.

    Args:
        call: Service and operation.
        account: The cloud's account.
        environ: The WSGI environment.
    """

    call: ApiCall
    account: str
    environ: dict[str, Any]

    @functools.cached_property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters by their names in the API; not for S3, whose parameters are in URL and headers."""
        body = read_body(self.environ)
        if not str(self.environ.get("CONTENT_TYPE", "")).startswith(_FORM):
            read: dict[str, Any] = json.loads(body or b"{}")
            return read
        return _read_form(self.call, body.decode())

    @property
    def partition(self) -> str:
        """Partition of the request's Region, such as `aws`."""
        from moto.utilities.utils import get_partition

        return str(get_partition(self.call.region))

    def arn(self, service: str, resource: str) -> str:
        """Build the ARN of a resource in the request's Region."""
        return f"arn:{self.partition}:{service}:{self.call.region}:{self.account}:{resource}"

    def backend(self, service: str) -> Any:
        """Return moto's backend of *service* in the request's Region."""
        from moto.backends import get_backend

        return get_backend(service)[self.account][self.call.region]


PermissionRule = Callable[[ServiceRequest], Iterable[RequiredPermission]]
"""Derives the permissions that a request of one operation needs."""


def without_resource(action: str) -> PermissionRule:
    """Make the rule of an operation that needs *action* without resource-level permissions."""
    return lambda _request: (RequiredPermission(action=action),)


def _read_form(call: ApiCall, body: str) -> Mapping[str, Any]:
    from moto.core.parse import PROTOCOL_PARSERS
    from moto.core.utils import get_service_model
    from werkzeug.datastructures import MultiDict

    model = get_service_model(call.service)
    parser = PROTOCOL_PARSERS["ec2" if call.service == "ec2" else "query"](model.operation_model(call.operation))
    read: dict[str, Any] = parser.parse({"values": MultiDict(parse_qsl(body, keep_blank_values=True))})
    return read
