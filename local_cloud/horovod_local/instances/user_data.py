"""The files that an instance's user data would write, found by reading the script without running it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from horovod_node import contract

_HEREDOC: Final = re.compile(r"(?<!<)<<(-?)\s*(['\"]?)(\w+)\2")
_TARGET: Final = re.compile(r"(?<!>)>\s*(['\"]?)(/[^\s'\"<>]+)\1")


def written_files(user_data: str) -> dict[str, str]:
    """
    Return the files that *user_data* writes, as text by path.

    The script must write them with heredocs whose command line names the file (`cat > 'path' <<'WORD'`). Their text is
    taken literally, as with a quoted WORD. If a file is written twice, the later text counts.

    Args:
        user_data: The decoded script.
    """
    files: dict[str, str] = {}
    lines = iter(user_data.splitlines())
    for line in lines:
        opening = _HEREDOC.search(line)
        if opening is None:
            continue
        strip_tabs, _, marker = opening.groups()
        text = []
        for entry in lines:
            entry = entry.lstrip("\t") if strip_tabs else entry
            if entry == marker:
                break
            text.append(f"{entry}\n")
        target = _TARGET.search(line)
        if target is not None:
            files[target[2]] = "".join(text)
    return files


def node_environment(files: Mapping[str, str]) -> dict[str, str] | None:
    """
    Parse `contract.NODE_ENV_FILE` as `docker run --env-file` does.

    Args:
        files: The result of `written_files`.

    Returns:
        The variables; None if there is no such file, because the instance is not a node.
    """
    if contract.NODE_ENV_FILE not in files:
        return None
    environment = {}
    for line in files[contract.NODE_ENV_FILE].splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            environment[name] = value
    return environment
