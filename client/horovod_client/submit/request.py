"""Building and checking of a run's request, before anything is uploaded or started."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import timedelta
from os import PathLike, fspath
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from horovod_client.aws.connection import Connection
from horovod_client.aws.error_codes import DENIED, code_of
from horovod_client.errors import InvalidInput
from horovod_client.submit.files import shown
from horovod_client.text.amounts import duration
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DEFAULT_CHANNEL = "training"
"""Channel of data without a name: SageMaker's default, so that its scripts find SM_CHANNEL_TRAINING."""


def build_request(
    *,
    source: str,
    entry_point: str,
    gpus: int,
    min_gpus: int | None = None,
    data: Mapping[str, str] | str | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    max_runtime: timedelta | None = None,
    max_cost_usd: float | None = None,
    max_restarts: int | None = None,
    resume_from: str | None = None,
    model_required: bool = True,
    owner: str | None = None,
    project: str | None = None,
) -> dict[str, Any]:
    """
    Build a request; fields that are None are left out.

    Args:
        source: S3 address of the packaged code.
        entry_point: Path of the training script inside the package.
        gpus: GPUs of the ring.
        min_gpus: Smallest number of GPUs of an elastic ring.
        data: S3 address of each channel, or one address for the channel `DEFAULT_CHANNEL`.
        hyperparameters: Values of the script's arguments, by name.
        max_runtime: Longest training.
        max_cost_usd: Highest cost of the run's instances, in US dollars.
        max_restarts: Largest number of restarts.
        resume_from: Name of the run whose newest checkpoint it begins with.
        model_required: Whether the run fails when its script leaves no model. Default: it fails.
        owner: Person or team that the run is for.
        project: Project that the run is for.

    Raises:
        InvalidInput: If *data* or *hyperparameters* is not a mapping, or *max_runtime* is not a `timedelta`: a number
            could mean hours or seconds.
    """
    request: dict[str, Any] = {contract.SOURCE: source, contract.ENTRY_POINT: entry_point, contract.GPUS: gpus}
    if data is not None:
        channels = {DEFAULT_CHANNEL: data} if isinstance(data, str | PathLike) else data
        if not isinstance(channels, Mapping):
            raise InvalidInput(
                "'data' must be an address like s3://bucket/folder/, or a dict of channels and addresses, like "
                f"{{'train': 's3://bucket/folder/'}}, got {_shown(data)}"
            )
        request[contract.DATA] = {
            channel: fspath(address) if isinstance(address, PathLike) else address
            for channel, address in channels.items()
        }
    if hyperparameters is not None:
        if not isinstance(hyperparameters, Mapping):
            raise InvalidInput(
                f"'hyperparameters' must be a dict of names and values, like {{'epochs': 3}}, got "
                f"{_shown(hyperparameters)}"
            )
        request[contract.HYPERPARAMETERS] = hyperparameters
    if max_runtime is not None:
        if not isinstance(max_runtime, timedelta):
            raise InvalidInput(f"'max_runtime' must be a timedelta, like timedelta(hours=2), got {max_runtime!r}")
        seconds = max_runtime.total_seconds()
        request[contract.MAX_RUNTIME_SECONDS] = int(seconds) if seconds.is_integer() else seconds
    plain = {
        contract.MIN_GPUS: min_gpus,
        contract.MAX_COST_USD: max_cost_usd,
        contract.MAX_RESTARTS: max_restarts,
        contract.RESUME_FROM: resume_from,
        contract.MODEL: None if model_required else contract.MODEL_OPTIONAL,
        contract.OWNER: owner,
        contract.PROJECT: project,
    }
    request |= {name: value for name, value in plain.items() if value is not None}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in request.items()}


def write_request(request: Mapping[str, Any], *, connection: Connection) -> str:
    """
    Check a request against its training, and return it as the execution's input.

    The rules are those of `contract.check_request`; the state machine checks the same rules again.

    Args:
        request: Request from `build_request`.
        connection: Connection to the training.

    Raises:
        InvalidInput: If the request is invalid; the sentence names every problem.
    """
    for name, value in request.items():
        _check_json(name, value)
    text = json.dumps(request, ensure_ascii=False, separators=(",", ":"))
    _check_data_is_in_s3(request.get(contract.DATA), data_bucket=connection.data_bucket)
    _check_max_runtime(request.get(contract.MAX_RUNTIME_SECONDS), most=connection.max_runtime_seconds)
    problems = contract.check_request(
        json.loads(text),
        fleets=connection.fleets,
        max_runtime_seconds=connection.max_runtime_seconds,
        max_cost_usd=connection.max_cost_usd,
    )
    if problems:
        raise InvalidInput("; ".join(problems))
    return text


def check_data_exists(data: Mapping[str, str], *, s3: S3Client) -> None:
    """
    Check that each channel has at least one object.

    A user without permission to list the data skips this check; the state machine checks it again.

    Args:
        data: S3 address of each channel: a folder, with or without its closing slash, a whole bucket, or one object.
        s3: Client to list with.

    Raises:
        InvalidInput: If a channel has no object or its bucket does not exist.
    """
    for channel, uri in data.items():
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            there = _holds_a_file(s3, bucket=bucket, key=key)
        except s3.exceptions.NoSuchBucket as error:
            raise InvalidInput(f"'data.{channel}' is in a bucket that does not exist: {uri}; check its name") from error
        except s3.exceptions.ClientError as error:
            if code_of(error) not in DENIED:
                raise
            continue
        if not there:
            raise InvalidInput(f"'data.{channel}' is empty: {uri} holds no object")


def check_checkpoint_exists(run: str, *, training: str, bucket: str, s3: S3Client) -> None:
    """
    Check that a run left a checkpoint, before nodes are started that would find none.

    Only the nodes check whether the checkpoint is usable. A user who may not list the bucket skips this check.

    Args:
        run: Name of the run to resume.
        training: Name of its training.
        bucket: Name of the model bucket.
        s3: Client to list with.

    Raises:
        InvalidInput: If there is no checkpoint of that run.
    """
    prefix = contract.checkpoints_of(training, run)
    try:
        found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except s3.exceptions.ClientError as error:
        if code_of(error) != "AccessDenied":
            raise
        return
    if not found.get("Contents"):
        raise InvalidInput(
            f"'resume_from' must be a run that left a checkpoint, got '{run}': s3://{bucket}/{prefix} is empty"
        )


def _holds_a_file(s3: S3Client, *, bucket: str, key: str) -> bool:
    """Return whether there is an object, by the rule of the node's `data_channels`; a test compares the two."""
    folder = key if key.endswith("/") or not key else f"{key}/"
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
        # The S3 console creates a "folder" as an empty object whose key ends with a slash.
        if any(not item["Key"].endswith("/") for item in page.get("Contents", ())):
            return True
    if folder == key:
        return False
    # The key itself is the first of all keys with this prefix.
    first = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    return any(item["Key"] == key for item in first.get("Contents", ()))


def _check_json(name: str, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"'{name}' must be a finite number, got {value}")
    error = _json_error(value)
    if error is None:
        return
    if isinstance(value, dict):  # name the invalid value
        for key, item in value.items():
            if wrong := _json_error(item):
                name, value, error = f"{name}.{key}", item, wrong
                break
    match error:
        case UnicodeEncodeError():
            raise InvalidInput(f"'{name}' must be text that UTF-8 can encode, got {_shown(value)}") from error
        case TypeError() if not isinstance(value, dict | list | tuple):
            raise InvalidInput(
                f"'{name}' must be a JSON value (text, a number, True, False, None, a list or a dict), got "
                f"{_shown(value)}, a {type(value).__name__}: convert it"
            ) from error
        case ValueError() if isinstance(value, float):
            raise InvalidInput(f"'{name}' must be a finite number, because JSON has no other, got {value}") from error
    raise InvalidInput(f"'{name}' cannot be written as JSON: {error}") from error


def _json_error(value: object) -> Exception | None:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return error
    return None


def _shown(value: object) -> str:
    """Format a value as Python does, in ASCII and shortened."""
    text = ascii(value)
    return text if len(text) <= contract.SHOWN_LIMIT else f"{text[: contract.SHOWN_LIMIT]}…"


def _check_data_is_in_s3(data: object, *, data_bucket: str) -> None:
    for channel, address in data.items() if isinstance(data, dict) else ():
        if not isinstance(address, str) or "://" in address:
            continue
        path = Path(address).expanduser()
        if not address or not path.exists():  # a typing error, such as s3:/bucket/folder
            raise InvalidInput(f"'data.{channel}' must be an address like s3://bucket/folder/, got '{address}'")
        raise InvalidInput(
            f"'data.{channel}' must be in S3, got the local path '{shown(path)}': copy it there, for example with "
            f"aws s3 {'sync' if path.is_dir() else 'cp'} {quote(address)} s3://{data_bucket}/data/{channel}/ "
            "(only cdk-horovod local train accepts local paths)"
        )


def _check_max_runtime(seconds: object, *, most: int) -> None:
    """Report the limit as a duration: users do not give it in seconds."""
    if isinstance(seconds, int | float) and not 1 <= seconds <= most:
        raise InvalidInput(
            f"'max_runtime' must be from 1 s to {duration(most)}, this training's limit, got {duration(seconds)}"
        )
