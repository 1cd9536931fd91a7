"""EC2 instance metadata, version 2: every request carries a session token."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

DEFAULT_ENDPOINT: Final = "http://169.254.169.254"

_TOKEN_SECONDS = 300
_REQUEST_SECONDS = 2
ATTEMPTS: Final = 5
"""Default number of tries: the service may answer 5xx, or not at all, for a moment after a boot."""


class InstanceMetadata:
    """
    Reads instance metadata over HTTP. Only one thread may use it.

    Args:
        endpoint: Address of the service, without `/latest`. Default: `DEFAULT_ENDPOINT`.
        attempts: How often a request is sent before it fails. Default: `ATTEMPTS`.
    """

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT, *, attempts: int = ATTEMPTS) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._attempts = attempts
        # A proxy named in the environment cannot reach a link-local address.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._token = ""

    def read(self, path: str) -> str:
        """
        Read one item, `instance-id` for example.

        Raises:
            OSError: If the service does not answer, or has no such item.
        """
        if self._token:
            try:
                return self._get(path)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.UNAUTHORIZED:
                    raise
        # There is no token yet, or it has expired.
        self._token = self._request(
            "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        )
        return self._get(path)

    def find(self, path: str) -> str | None:
        """
        Read one item, `spot/instance-action` for example; return `None` if it does not exist.

        Raises:
            OSError: If the service does not answer.
        """
        try:
            return self.read(path)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _get(self, path: str) -> str:
        return self._request("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})

    def _request(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        request = urllib.request.Request(self._endpoint + path, method=method, headers=dict(headers))  # noqa: S310
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(0.2 * 2**attempt)
            try:
                with self._opener.open(request, timeout=_REQUEST_SECONDS) as response:
                    answer: bytes = response.read()
                    return answer.decode()
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise
                failure: OSError = error
            except OSError as error:
                failure = error
        raise failure
