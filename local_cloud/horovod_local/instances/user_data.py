"""The files that an instance's user data would write, found by reading the script without running it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

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


def variables_in(files: Mapping[str, str], path: str) -> dict[str, str] | None:
    """
    Parse a file of variables, such as `contract.NODE_ENV_FILE`, as `docker run --env-file` does.

    Args:
        files: The result of `written_files`.
        path: Path of the file.

    Returns:
        The variables; None if there is no such file.
    """
    if path not in files:
        return None
    environment = {}
    for line in files[path].splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            environment[name] = value
    return environment
