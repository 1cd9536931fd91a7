"""The request of a run: built, and checked before anything is uploaded or started."""

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
"""Channel of data given without a name: SageMaker's, so that its scripts find SM_CHANNEL_TRAINING here too."""


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
    Put a request together; fields that were not given are left out.

    Args:
        source: S3 address of the packaged code.
        entry_point: Path of the training script inside the package.
        gpus: GPUs of the ring.
        min_gpus: GPUs that it can do with.
        data: S3 prefix of each channel, or one prefix for the channel `DEFAULT_CHANNEL`.
        hyperparameters: Values of the script's options.
        max_runtime: Longest time of training.
        max_cost_usd: Most that the run's instances may cost.
        max_restarts: How often it may start again.
        resume_from: Name of the run whose checkpoint it begins with.
        model_required: Whether it fails when its script leaves no model.
        owner: Who it is for.
        project: What it is for.

    Raises:
        InvalidInput: If *data* or *hyperparameters* is no mapping, such as a list, or *max_runtime* is a number: of
            hours or of seconds, it does not say.
    """
    request: dict[str, Any] = {contract.SOURCE: source, contract.ENTRY_POINT: entry_point, contract.GPUS: gpus}
    if data is not None:
        channels = {DEFAULT_CHANNEL: data} if isinstance(data, str | PathLike) else data
        if not isinstance(channels, Mapping):
            raise InvalidInput(
                "'data' must be an address like s3://bucket/folder/, or a dict of one for each channel, such as "
                f"{{'train': 's3://bucket/folder/'}}, got {_shown(data)}"
            )
        request[contract.DATA] = {
            channel: fspath(address) if isinstance(address, PathLike) else address
            for channel, address in channels.items()
        }
    if hyperparameters is not None:
        if not isinstance(hyperparameters, Mapping):
            raise InvalidInput(
                f"'hyperparameters' must be a dict of names to values, such as {{'epochs': 3}}, got "
                f"{_shown(hyperparameters)}"
            )
        request[contract.HYPERPARAMETERS] = hyperparameters
    if max_runtime is not None:
        if not isinstance(max_runtime, timedelta):
            raise InvalidInput(f"'max_runtime' must be a timedelta, such as timedelta(hours=2), got {max_runtime!r}")
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
    Look for one file in each channel, where the nodes will look for all of them.

    Who starts a run need not be allowed to list its data: the nodes are, and look again.

    Args:
        data: S3 address of each channel: a folder, with or without its closing slash, a whole bucket, or one object.
        s3: Client to list with.

    Raises:
        InvalidInput: If a channel holds no file or its bucket does not exist.
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
    Look for anything that another run left to begin with, before nodes are paid for that would find nothing.

    Whether it can be used, the nodes find out; who may not list the bucket leaves all of it to them.

    Args:
        run: Name of the run that is to be resumed.
        training: Name of the training that it ran on.
        bucket: The model bucket.
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
    """Judge as the node's `data_channels` does, which a test compares; a prefix that is no folder holds nothing."""
    folder = key if key.endswith("/") or not key else f"{key}/"
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
        # Consoles make a "folder" out of an empty object whose key ends with a slash.
        if any(not item["Key"].endswith("/") for item in page.get("Contents", ())):
            return True
    if folder == key:
        return False
    # Of all keys that begin like this one, the key itself comes first.
    first = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    return any(item["Key"] == key for item in first.get("Contents", ()))


def _check_json(name: str, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"'{name}' must be a finite number, got {value}")
    error = _json_error(value)
    if error is None:
        return
    if isinstance(value, dict):  # name the one that is wrong
        for key, item in value.items():
            if wrong := _json_error(item):
                name, value, error = f"{name}.{key}", item, wrong
                break
    match error:
        case UnicodeEncodeError():
            raise InvalidInput(f"'{name}' must be text that UTF-8 can write, got {_shown(value)}") from error
        case TypeError() if not isinstance(value, dict | list | tuple):
            raise InvalidInput(
                f"'{name}' must be what JSON can say (text, a number, True, False, None, a list or a dict), got "
                f"{_shown(value)}, a {type(value).__name__}: convert it"
            ) from error
        case ValueError() if isinstance(value, float):
            raise InvalidInput(f"'{name}' must be a finite number, which JSON can say, got {value}") from error
    raise InvalidInput(f"'{name}' cannot be written as JSON: {error}") from error


def _json_error(value: object) -> Exception | None:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return error
    return None


def _shown(value: object) -> str:
    """Write a value as Python does, without characters that no terminal takes."""
    text = ascii(value)
    return text if len(text) <= contract.SHOWN_LIMIT else f"{text[: contract.SHOWN_LIMIT]}…"


def _check_data_is_in_s3(data: object, *, data_bucket: str) -> None:
    for channel, address in data.items() if isinstance(data, dict) else ():
        if not isinstance(address, str) or "://" in address:
            continue
        path = Path(address).expanduser()
        if not address or not path.exists():  # a slip of the fingers, such as s3:/bucket/folder
            raise InvalidInput(f"'data.{channel}' must be an address like s3://bucket/folder/, got '{address}'")
        raise InvalidInput(
            f"'data.{channel}' must be in S3, got the local path '{shown(path)}': copy it there, for example with "
            f"aws s3 {'sync' if path.is_dir() else 'cp'} {quote(address)} s3://{data_bucket}/data/{channel}/ "
            "(the local cloud, cdk-horovod local train, takes local paths)"
        )


def _check_max_runtime(seconds: object, *, most: int) -> None:
    """Say it in the user's words: nobody types a time in seconds."""
    if isinstance(seconds, int | float) and not 1 <= seconds <= most:
        raise InvalidInput(
            f"'max_runtime' must be 1 s to {duration(most)}, which is this training's limit, got {duration(seconds)}"
        )
