"""`cdk-horovod logs`: print the output of a run's ranks and agents."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from horovod_client.cli.completion_candidates import complete_run
from horovod_client.cli.options import say, training_options
from horovod_client.client import TrainingClient
from horovod_client.run import Run
from horovod_client.text.terminal import printable_json


@click.command()
@click.argument("run", shell_complete=complete_run)
@click.option("--follow", "-f", is_flag=True, help="Wait for new lines until the run ends.")
@click.option("--rank", type=click.IntRange(min=0), help="Lines of this rank only. Default: rank 0.")
@click.option("--node", metavar="ID", help="Lines of this node only.")
@click.option("--agent", is_flag=True, help="Lines of the nodes' agents.")
@click.option("--all", "every", is_flag=True, help="Lines of every rank.")
@training_options
def logs(
    *,
    run: str,
    follow: bool,
    rank: int | None,
    node: str | None,
    agent: bool,
    every: bool,
    stack: str,
    output: str | None,
    as_json: bool,
) -> None:
    """Print the output of RUN; by default that of rank 0."""
    found = Run.from_id(run, client=TrainingClient.from_stack(stack, output=output))
    lines = found.logs(follow=follow, rank=rank, node=node, agent=agent, all_ranks=every)
    silent = True
    try:
        for line in lines:
            silent = False
            if as_json:
                click.echo(printable_json(json.dumps(asdict(line), ensure_ascii=False)))
            elif every or agent or (node is not None and rank is None):
                say(f"{line.node} {line.speaker}: {line.text}")
            else:
                say(line.text)
    except KeyboardInterrupt:  # the way to end --follow
        return
    if silent:
        chosen = f"{'' if rank is None else f' of rank {rank}'}{'' if node is None else f' of node {node}'}"
        say(
            f"cdk-horovod: run '{run}' has no log lines{chosen}: --all shows every rank, --agent the nodes' agents, "
            "--follow waits for new lines",
            err=True,
        )
