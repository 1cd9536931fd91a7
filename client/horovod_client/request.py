"""The request of a run: built, and checked before anything is uploaded or started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from horovod_client.connection import Connection
from horovod_client.errors import InvalidInput
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DEFAULT_CHANNEL = "training"
"""Channel of data given without a name: SageMaker's, so that its scripts find SM_CHANNEL_TRAINING here too."""

REQUEST_LIMIT_BYTES = 256 * 1024
"""Step Functions' quota on the input of an execution, in UTF-8."""


def build_request(
    *,
    source: str,
    entry_point: str,
    gpus: int,
    data: Mapping[str, str] | str | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    max_runtime: timedelta | None = None,
) -> dict[str, Any]:
    """
    Put a request together; fields that were not given are left out.

    Args:
        source: S3 address of the packaged code.
        entry_point: Path of the training script inside the package.
        gpus: GPUs of the ring.
        data: S3 prefix of each channel, or one prefix for the channel `DEFAULT_CHANNEL`.
        hyperparameters: Values of the script's options.
        max_runtime: Longest time of training.
    """
    request: dict[str, Any] = {contract.SOURCE: source, contract.ENTRY_POINT: entry_point, contract.GPUS: gpus}
    if data is not None:
        request[contract.DATA] = {DEFAULT_CHANNEL: data} if isinstance(data, str) else data
    if hyperparameters is not None:
        request[contract.HYPERPARAMETERS] = hyperparameters
    if max_runtime is not None:
        seconds = max_runtime.total_seconds()
        request[contract.MAX_RUNTIME_SECONDS] = int(seconds) if seconds.is_integer() else seconds
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in request.items()}


def write_request(request: Mapping[str, Any], *, connection: Connection) -> str:
    """
    Check a request against the training that is to run it, and write it as the execution's input.

    The rules are those of the state machine (`contract.check_request`), which checks again.

    Args:
        request: As `build_request` made it.
        connection: The training.

    Raises:
        InvalidInput: If anything is wrong with the request; the sentence names all of it.
    """
    for name, value in request.items():
        _check_json(name, value)
    text = json.dumps(request, ensure_ascii=False, separators=(",", ":"))
    _check_data_is_in_s3(request.get(contract.DATA), data_bucket=connection.data_bucket)
    problems = contract.check_request(
        json.loads(text),
        gpu_step=connection.gpu_step,
        max_gpus=connection.max_gpus,
        max_runtime_seconds=connection.max_runtime_seconds,
    )
    if problems:
        raise InvalidInput("; ".join(problems))
    size = len(text.encode())
    if size > REQUEST_LIMIT_BYTES:
        raise InvalidInput(
            f"the request must be at most {REQUEST_LIMIT_BYTES} bytes of JSON, got {size}: "
            f"put large hyperparameters into a file of their own"
        )
    return text


def check_data_exists(data: Mapping[str, str], *, s3: S3Client) -> None:
    """
    Look for one object under each channel's prefix.

    Who starts a run need not be allowed to list its data: the state machine is, and looks again.

    Args:
        data: S3 prefix of each channel.
        s3: Client to list with.

    Raises:
        InvalidInput: If a prefix is empty or its bucket does not exist.
    """
    for channel, uri in data.items():
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        try:
            listing = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        except s3.exceptions.NoSuchBucket as error:
            raise InvalidInput(f"'data.{channel}' is in a bucket that does not exist: {uri}") from error
        except s3.exceptions.ClientError as error:
            if error.response.get("Error", {}).get("Code") != "AccessDenied":
                raise
            continue
        if listing["KeyCount"] == 0:
            raise InvalidInput(f"'data.{channel}' is empty: {uri}")


def _check_json(name: str, value: object) -> None:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"'{name}' cannot be written as JSON: {error}") from error


def _check_data_is_in_s3(data: object, *, data_bucket: str) -> None:
    for channel, address in data.items() if isinstance(data, dict) else ():
        if isinstance(address, str) and "://" not in address:
            raise InvalidInput(
                f"'data.{channel}' must be in S3, got the local path '{address}': copy it there, for example with "
                f"aws s3 cp --recursive {address} s3://{data_bucket}/data/{channel}/"
            )
