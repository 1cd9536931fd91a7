"""A run on one screen, drawn from its status alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from horovod_client.cli.news import describe_progress, describe_restarts, describe_spend
from horovod_client.status import PHASE_END, PHASES, NodeStatus, RunStatus, TrainingProgress
from horovod_client.waiting import duration, explain_waiting

NODES_SHOWN = 10
LINES_SHOWN = 6
BAR_WIDTH = 30


def draw(
    status: RunStatus, *, now: float, since: Mapping[str, float] | None = None, lines: Sequence[str] = ()
) -> RenderableType:
    """
    Draw a run: where it is, what it waits for, its nodes, how far its training is, what it cost, its last lines.

    Args:
        status: What the run is doing.
        now: Epoch seconds.
        since: When each phase was first seen, in epoch seconds. Default: that is left out.
        lines: What rank 0 printed; the last ones are shown.
    """
    parts: list[RenderableType] = [_heading(status, now=now), _phases(status, now=now, since=since or {})]
    for text, style in (
        (explain_waiting(status, now=now), "yellow"),
        (describe_restarts(status), ""),
        (status.notice, ""),
    ):
        if text:
            parts.append(Text(text, style=style))
    if status.nodes:
        parts.append(_nodes(status.nodes, now=now))
    if status.progress is not None:
        parts += _progress(status.progress)
    if status.spend is not None:
        parts.append(Text(describe_spend(status.spend)))
    parts += [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines[-LINES_SHOWN:]]
    return Group(*parts)


def _heading(status: RunStatus, *, now: float) -> Text:
    heading = Text("run ").append(status.run, style="bold")
    if status.gpus is not None:
        heading.append(f", {status.gpus} GPU{'' if status.gpus == 1 else 's'}")
    if status.started_at is not None and not status.ended:
        heading.append(f", for {duration(now - status.started_at)}")
    if status.ended:
        heading.append(f", {status.state}", style="green" if status.succeeded else "red")
    return heading


def _phases(status: RunStatus, *, now: float, since: Mapping[str, float]) -> Text:
    """Write the phases in a row, the present one marked; before the request is checked there is none."""
    line = Text(no_wrap=True, overflow="ellipsis")
    present = PHASES.index(status.phase) if status.phase in PHASES else -1
    for place, phase in enumerate(PHASES[:-1]):
        if place:
            line.append(" > ", style="dim")
        if place == present:
            line.append(f"* {phase}", style="bold cyan")
            if phase in since:
                line.append(f" {duration(now - since[phase])}", style="cyan")
        else:
            line.append(phase, style="green" if place < present or status.phase == PHASE_END else "dim")
    return line


def _nodes(nodes: Sequence[NodeStatus], *, now: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("node", "type", "market", "zone", "state", "seen"):
        table.add_column(column, no_wrap=True)
    for node in nodes[:NODES_SHOWN]:
        state = node.state if not node.step else f"{node.state}, step {node.step}"
        table.add_row(
            f"{node.node}{' leads' if node.leads else ''}",
            node.instance_type,
            node.market,
            node.zone,
            f"{state}{', will be taken back' if node.interruption else ''}",
            "" if node.seen_at is None else f"{duration(now - node.seen_at)} ago",
        )
    if len(nodes) > NODES_SHOWN:
        table.add_row(f"and {len(nodes) - NODES_SHOWN} more")
    return table


def _progress(progress: TrainingProgress) -> Iterator[RenderableType]:
    facts = Text(describe_progress(progress))
    if not progress.steps:
        yield facts
        return
    row = Table.grid(padding=(0, 1))
    row.add_row(
        ProgressBar(total=progress.steps, completed=min(progress.step, progress.steps), width=BAR_WIDTH),
        Text(f"{min(progress.step / progress.steps, 1):.0%}"),
        facts,
    )
    yield row
