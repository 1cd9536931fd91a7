"""Parsing of command line values into arguments of `TrainingClient.fit`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from horovod_client.errors import InvalidInput
from horovod_client.submit.request import DEFAULT_CHANNEL

SHOWN: Final = 200
"""Number of characters of an invalid value that are shown."""


def parse_data(values: Iterable[str]) -> dict[str, str]:
    """
    Parse `--data`: each value is `NAME=s3://…`, or only an address for the channel `training`.

    Args:
        values: Values of all `--data` options.

    Raises:
        InvalidInput: If two values name the same channel.
    """
    data: dict[str, str] = {}
    for value in values:
        name, equals, address = value.partition("=")
        if not equals or "/" in name:  # only an address, whose key may contain '=', as in year=2024/
            name, address = DEFAULT_CHANNEL, value
        if name in data:
            raise InvalidInput(
                f"'--data' must name each channel once, got '{name}' for {data[name]} and {address}: name them, as in "
                f"test={address}"
            )
        data[name] = address
    return data


def parse_hyperparameters(value: str) -> dict[str, Any]:
    """
    Parse `--hyperparameters`: a JSON object, or `@` and the path of a file with one.

    Args:
        value: Value of the option.

    Raises:
        InvalidInput: If the file cannot be read or the text is not a JSON object.
    """
    text: str | bytes = value
    if value.startswith("@"):
        try:
            # From bytes, json decodes UTF-8, UTF-16 and UTF-32, with or without a byte order mark.
            text = Path(value[1:]).read_bytes()
        except OSError as error:
            raise InvalidInput(f"'--hyperparameters' cannot be read from '{value[1:]}': {error.strerror}") from error
    got = f"got '{value}'" if len(value) <= SHOWN else f"got '{value[:SHOWN]}…' ({len(value)} characters)"
    try:
        hyperparameters = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"'--hyperparameters' must be a file of UTF-8 text, {got}, which is invalid at byte {error.start + 1}: "
            "save it as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        file = Path(value)
        hint = f"; write '@{value}' to read that file" if len(value) <= SHOWN and file.is_file() else ""
        raise InvalidInput(
            f"'--hyperparameters' must be JSON, like '{{\"epochs\": 3}}', {got}: {error}{hint}"
        ) from error
    if not isinstance(hyperparameters, dict):
        raise InvalidInput(f"'--hyperparameters' must be a JSON object, like '{{\"epochs\": 3}}', {got}")
    return hyperparameters


def parse_max_runtime(value: str) -> timedelta:
    """
    Parse `--max-runtime`: hours, minutes and seconds, as in `24h`, `1h30m` or `90s`.

    Args:
        value: Value of the option.

    Raises:
        InvalidInput: If *value* is anything else.
    """
    parts = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", value)
    if not value or parts is None:
        raise InvalidInput(f"'--max-runtime' must be a time like 24h, 1h30m or 90s, got '{value}'")
    hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
