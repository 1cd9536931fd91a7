"""The node's environment, read out of an instance's user data as its own boot script would write it."""

from __future__ import annotations

import re

from horovod_node.contract import NODE_ENV_FILE

_HEREDOC = re.compile(r"<<(-?)\s*(['\"]?)(\w+)\2")


def node_environment(user_data: str) -> dict[str, str] | None:
    """
    Find the lines that *user_data* writes to `contract.NODE_ENV_FILE`, as names and values.

    The script must write them in a heredoc: the command line that names the file opens it, and the values are taken as
    they stand, as `docker run --env-file` takes them.

    Args:
        user_data: Decoded, as the instance would run it.

    Returns:
        None when the script writes no such file: the instance is not a node.
    """
    lines = iter(user_data.splitlines())
    for line in lines:
        opening = _HEREDOC.search(line) if NODE_ENV_FILE in line else None
        if opening is None:
            continue
        strip_tabs, _, marker = opening.groups()
        environment = {}
        for entry in lines:
            text = entry.lstrip("\t") if strip_tabs else entry
            if text == marker:
                break
            name, equals, value = text.partition("=")
            if equals and not name.startswith("#"):
                environment[name] = value
        return environment
    return None
