"""Everything that a node needs before it can be ready."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from horovod_node.channels import fetch_channels
from horovod_node.layout import Layout
from horovod_node.request import Request
from horovod_node.source import fetch_source

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)


def fetch(s3: S3Client, *, request: Request, layout: Layout) -> None:
    """
    Bring the script and the data channels to this node.

    Raises:
        RunError: If the request names something that is not there or cannot be used.
    """
    started = time.monotonic()
    fetch_source(s3, uri=request.source, entry_point=request.entry_point, into=layout.code)
    received = fetch_channels(s3, data=request.data, layout=layout)
    _log.info("fetched the script and %s bytes of data in %.1f s", f"{received:,}", time.monotonic() - started)
