"""What a shell offers when the user presses the tab key."""

from __future__ import annotations

import os
import re

import click
from click.shell_completion import CompletionItem

from horovod_node import contract

RUNS_OFFERED = 50


def complete_run(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the newest runs whose names begin with *incomplete*; nothing when they cannot be asked for."""
    stack = context.params.get("stack") or os.environ.get("CDK_HOROVOD_STACK")
    if not stack:
        return []
    try:
        from horovod_client.client import TrainingClient

        runs = TrainingClient.from_stack(stack, output=context.params.get("output")).runs(limit=RUNS_OFFERED)
    except Exception:  # a shell that completes has no place for an error
        return []
    # An execution that was started elsewhere may have any name; a shell is offered those that the tool takes.
    names = [(run.name, run.state) for run in runs if re.fullmatch(contract.RUN_NAME_PATTERN, run.name)]
    return [CompletionItem(name, help=state) for name, state in names if name.startswith(incomplete)]
