"""What an instance's user data leaves on the instance: the files that it writes, read out of it and not run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from horovod_node import contract

_HEREDOC: Final = re.compile(r"(?<!<)<<(-?)\s*(['\"]?)(\w+)\2")
_TARGET: Final = re.compile(r"(?<!>)>\s*(['\"]?)(/[^\s'\"<>]+)\1")


def written_files(user_data: str) -> dict[str, str]:
    """
    Find the files that *user_data* writes, as path and text.

    The script must write them in heredocs: the command line that names the file opens it (`cat > 'path' <<'WORD'`),
    and the text is taken as it stands, as a shell takes it when the word is quoted. Of two texts for one file the later
    counts.

    Args:
        user_data: Decoded, as the instance would run it.
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
    Read the lines of `contract.NODE_ENV_FILE` as names and values, as `docker run --env-file` reads them.

    Args:
        files: As `written_files` finds them.

    Returns:
        None when there is no such file: the instance is not a node.
    """
    if contract.NODE_ENV_FILE not in files:
        return None
    environment = {}
    for line in files[contract.NODE_ENV_FILE].splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            environment[name] = value
    return environment
