"""Retries of calls that watch a run, which continues without them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from horovod_client.aws.error_codes import THROTTLED, code_of

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

PATIENCE_SECONDS: Final = 3600.0
"""An hour: a laptop may be asleep, or on a train without a network."""

Answer = TypeVar("Answer")


def keep_trying(
    call: Callable[[], Answer],
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    pause_seconds: float = 5.0,
    on_trouble: Callable[[Exception], object] | None = None,
) -> Answer:
    """
    Repeat a call after network errors, throttling, and server errors of AWS.

    Other errors are raised at once.

    Args:
        call: Calls AWS; boto3 adds its own few retries.
        patience_seconds: Seconds from the first error until an error is raised. Default: an hour.
        pause_seconds: Seconds between two calls. Default: 5.
        on_trouble: Called with each error that is retried.
    """
    # Imported here because they load botocore, which would slow down the import of this package.
    from botocore.exceptions import ClientError

    from horovod_client.aws.refusals import Unreachable

    began: float | None = None
    while True:
        try:
            return call()
        except (*Unreachable, ClientError) as error:
            if isinstance(error, ClientError) and not _asks_for_patience(error):
                raise
            now = time.monotonic()
            began = now if began is None else began
            if now - began >= patience_seconds:
                raise
            if on_trouble is not None:
                on_trouble(error)
            time.sleep(pause_seconds)


def _asks_for_patience(error: ClientError) -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
    return status >= 500 or code_of(error) in THROTTLED
