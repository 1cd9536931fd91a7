"""Patience with the network of whoever watches a run: the run does not need it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from horovod_client.aws.error_codes import THROTTLED, code_of

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

PATIENCE_SECONDS: Final = 3600.0
"""A laptop may be on a train, or asleep."""

Answer = TypeVar("Answer")


def keep_trying(
    call: Callable[[], Answer],
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    pause_seconds: float = 5.0,
    on_trouble: Callable[[Exception], object] | None = None,
) -> Answer:
    """
    Call until there is an answer, through network errors, throttling, and failures of AWS's own.

    Other errors pass at once.

    Args:
        call: Asks AWS. boto3 has its own few retries inside of it.
        patience_seconds: Seconds after the first error after which the next one is raised.
        pause_seconds: Seconds between two calls.
        on_trouble: Told of each error that is passed over.
    """
    # Here and not above: botocore comes with them, and whoever imports this package would wait for it.
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
