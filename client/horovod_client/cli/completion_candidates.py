"""Candidates of shell completion."""

from __future__ import annotations

import os
import re

import click
from click.shell_completion import CompletionItem

from horovod_node import contract

RUNS_OFFERED = 50


def complete_run(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """List the newest runs whose names begin with *incomplete*; none if they cannot be read."""
    stack = context.params.get("stack") or os.environ.get("CDK_HOROVOD_STACK")
    if not stack:
        return []
    try:
        from horovod_client.client import TrainingClient

        runs = TrainingClient.from_stack(stack, output=context.params.get("output")).runs(limit=RUNS_OFFERED)
    except Exception:  # a completion cannot show an error
        return []
    # An execution that another tool started may have any name; only valid names of runs are offered.
    names = [(run.name, run.state) for run in runs if re.fullmatch(contract.RUN_NAME_PATTERN, run.name)]
    return [CompletionItem(name, help=state) for name, state in names if name.startswith(incomplete)]
