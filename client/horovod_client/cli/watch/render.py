"""Drawing of a run's status on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from horovod_client.status.describe import describe_progress, describe_restarts, describe_spend
from horovod_client.status.run_status import PHASE_END, PHASES, NodeStatus, RunStatus, TrainingProgress
from horovod_client.status.waiting import explain_waiting
from horovod_client.text.amounts import counted, duration
from horovod_client.text.terminal import printable, printable_line
from horovod_node import contract

NODES_SHOWN = 10
LINES_SHOWN = 6
BAR_WIDTH = 30
STATE_WIDTH = 11
NODE_COLUMNS = ("node", "type", "market", "zone", "state", "seen")


def draw(
    status: RunStatus, *, now: float, since: Mapping[str, float] | None = None, lines: Sequence[str] = ()
) -> RenderableType:
    """
    Draw a run: phase, reason of waiting, progress, cost, nodes, and the last lines of rank 0.

    The most important parts are at the top, because a view that is higher than the terminal is cut off at the end.

    Args:
        status: Status of the run.
        now: Current time, in epoch seconds.
        since: Start of each phase, in epoch seconds. Default: the durations are left out.
        lines: Output of rank 0, of which the last lines are shown.
    """
    parts: list[RenderableType] = [_heading(status, now=now), _phases(status, now=now, since=since or {})]
    for text, style in (
        (explain_waiting(status, now=now), "yellow"),
        (describe_restarts(status), ""),
        (status.notice, ""),
    ):
        if text:
            parts.append(_text(text, style=style))
    if status.progress is not None:
        parts += _progress(status.progress, ended=status.ended)
    if status.spend is not None:
        parts.append(_text(describe_spend(status.spend, ended=status.ended)))
    if status.nodes:
        parts.append(_nodes(status.nodes, now=now))
    parts += [
        Text(printable_line(line), style="dim", no_wrap=True, overflow="ellipsis") for line in lines[-LINES_SHOWN:]
    ]
    return Group(*parts)


def _heading(status: RunStatus, *, now: float) -> Text:
    heading = Text("run ").append(printable_line(status.run), style="bold")
    if status.gpus is not None:
        heading.append(f", {counted(status.gpus, 'GPU')}")
    if status.started_at is not None and not status.ended:
        heading.append(f", for {duration(now - status.started_at)}")
    if status.ended:
        heading.append(f", {printable_line(status.state)}", style="green" if status.succeeded else "red")
    return heading


def _phases(status: RunStatus, *, now: float, since: Mapping[str, float]) -> Text:
    """Draw the phases in a row, with the current one marked, if there is one."""
    line = Text()
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
    for column in NODE_COLUMNS:
        # In a narrow terminal the state is wrapped, because half an id, type or zone would be useless.
        table.add_column(column, no_wrap=column != "state", min_width=STATE_WIDTH if column == "state" else None)
    for node in nodes[:NODES_SHOWN]:
        seen = "" if node.seen_at is None else duration(now - node.seen_at)
        cells = (node.node, node.instance_type, node.market, node.zone, _state(node), seen)
        # As Text, because rich would interpret square brackets in a plain cell as markup.
        table.add_row(*(Text(printable_line(cell or "")) for cell in cells))
    if len(nodes) > NODES_SHOWN:
        table.add_row(f"and {len(nodes) - NODES_SHOWN} more")
    return table


def _state(node: NodeStatus) -> str:
    """Describe a node's state; for a training node its step is shown instead."""
    facts = [f"step {node.step}" if node.step and node.state == contract.NODE_TRAINING else node.state]
    if node.leads:
        facts.append("leader")
    if node.interruption:
        facts.append("Spot notice")
    return ", ".join(facts)


def _progress(progress: TrainingProgress, *, ended: bool) -> Iterator[RenderableType]:
    """Draw a progress bar, if the number of steps is known, and the other values below it."""
    if progress.steps:
        done = min(progress.step / progress.steps, 1)
        left = "" if ended or progress.eta_seconds is None else f", {duration(progress.eta_seconds)} left"
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(total=1, completed=done, width=BAR_WIDTH), Text(f"{done:.0%}{left}"))
        yield row
    yield _text(describe_progress(progress, eta=False))


def _text(words: str, *, style: str = "") -> Text:
    return Text(printable(words), style=style)
