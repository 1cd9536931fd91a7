"""What a shell offers when the user presses the tab key."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem

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
    return [CompletionItem(run.name, help=run.state) for run in runs if run.name.startswith(incomplete)]
