"""A request, read as its service reads it, and what is checked for it."""

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
    """Nobody has written down here which permissions an operation needs."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """
    One permission that a request needs.

    Args:
        action: Such as `dynamodb:PutItem`.
        resource: Its ARN. Default: the action is on no resource.
        context: Condition keys beside those that every request has.
        via: The service that asks on the principal's behalf, such as `s3`, when it is not the one that was called.
    """

    action: str
    resource: str = "*"
    context: Context = field(default_factory=dict)
    via: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """
    A request.

    Args:
        call: Service and operation.
        account: The cloud's.
        environ: Of WSGI.
    """

    call: ApiCall
    account: str
    environ: dict[str, Any]

    @functools.cached_property
    def parameters(self) -> Mapping[str, Any]:
        """What is asked, by the names of the API; not for S3, whose requests are read from address and headers."""
        body = read_body(self.environ)
        if not str(self.environ.get("CONTENT_TYPE", "")).startswith(_FORM):
            read: dict[str, Any] = json.loads(body or b"{}")
            return read
        return _read_form(self.call, body.decode())

    @property
    def partition(self) -> str:
        """Such as `aws`."""
        from moto.utilities.utils import get_partition

        return str(get_partition(self.call.region))

    def arn(self, service: str, resource: str) -> str:
        """Make the ARN of a resource in the request's Region."""
        return f"arn:{self.partition}:{service}:{self.call.region}:{self.account}:{resource}"

    def backend(self, service: str) -> Any:
        """Return moto's backend of *service* in the request's Region."""
        from moto.backends import get_backend

        return get_backend(service)[self.account][self.call.region]


Reader = Callable[[Asked], Iterable[Check]]
"""Says what an operation needs."""


def on_nothing(action: str) -> Reader:
    """Make the reader of an operation that needs *action*, on no resource."""
    return lambda _asked: (Check(action=action),)


def _read_form(call: ApiCall, body: str) -> Mapping[str, Any]:
    from moto.core.parse import PROTOCOL_PARSERS
    from moto.core.utils import get_service_model
    from werkzeug.datastructures import MultiDict

    model = get_service_model(call.service)
    parser = PROTOCOL_PARSERS["ec2" if call.service == "ec2" else "query"](model.operation_model(call.operation))
    read: dict[str, Any] = parser.parse({"values": MultiDict(parse_qsl(body, keep_blank_values=True))})
    return read
