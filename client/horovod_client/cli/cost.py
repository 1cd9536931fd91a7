"""`cdk-horovod cost`: estimated, current or final cost of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from horovod_client.cli.completion_candidates import complete_run
from horovod_client.cli.options import print_json, say, training_options
from horovod_client.client import TrainingClient
from horovod_client.errors import InvalidInput, ReceiptNotFound
from horovod_client.run import Run
from horovod_client.text import amounts
from horovod_client.text.columns import in_columns

ESTIMATE_COLUMNS = ("type", "nodes", "On-Demand USD/h", "Spot USD/h", "On-Demand USD", "Spot USD", "Spot saves")
NODE_COLUMNS = ("node", "instance_type", "market", "zone", "usd", "on_demand_usd")


@click.command()
@click.argument("run", required=False, shell_complete=complete_run)
@click.option("--gpus", type=int, help="Estimate the cost of a run with this many GPUs.")
@click.option("--hours", type=float, help="Hours that its nodes run. Default: 1.")
@training_options
def cost(
    *, run: str | None, gpus: int | None, hours: float | None, stack: str, output: str | None, as_json: bool
) -> None:
    """Show what RUN has cost (so far, while it runs), or with --gpus estimate the cost of a run."""
    if (run is None) == (gpus is None):
        raise InvalidInput("'cost' needs either a RUN, or --gpus (and --hours) for an estimate")
    if run is not None and hours is not None:
        raise InvalidInput("'--hours' needs '--gpus': omit it for a RUN")
    client = TrainingClient.from_stack(stack, output=output)
    if gpus is not None:
        _tell_estimate(client, gpus=gpus, hours=1.0 if hours is None else hours, as_json=as_json)
        return
    found = Run.from_id(str(run), client=client)
    try:
        receipt = found.receipt()
    except ReceiptNotFound:
        _tell_spend(found, as_json=as_json)
    else:
        _tell_receipt(_with_costs(receipt, client=client), as_json=as_json)


def _with_costs(receipt: dict[str, Any], *, client: TrainingClient) -> dict[str, Any]:
    """Complete the costs of a receipt that has none."""
    nodes = receipt.get("nodes") or []
    if not nodes or "on_demand_usd" in (receipt.get("cost") or {}):
        return receipt
    from horovod_client.results.receipt_costs import complete_costs

    return complete_costs(receipt, prices=client.price_lookup().prices_of(node["instance_type"] for node in nodes))


def _tell_estimate(client: TrainingClient, *, gpus: int, hours: float, as_json: bool) -> None:
    found = client.estimate(gpus=gpus, hours=hours).to_json()
    if as_json:
        print_json(found)
        return
    asked = f"{amounts.counted(gpus, 'GPU')} for {amounts.counted(hours, 'hour')}"
    say(f"{asked} in {found['region']}; prices of {amounts.moment(found['prices_from'])}")
    for fleet in found["fleets"]:
        say(f"fleet {fleet['fleet']}")
        _print_table([ESTIMATE_COLUMNS, *(_estimate_row(kind) for kind in fleet["types"])])
    for remark in found["remarks"]:
        say(remark)


def _estimate_row(kind: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("on_demand_usd_per_hour", "spot_usd_per_hour", "on_demand_usd", "spot_usd", "saved_usd")
    return (kind["instance_type"], str(kind["nodes"]), *(_amount(kind[name]) for name in names))


def _tell_spend(run: Run, *, as_json: bool) -> None:
    status = run.status()
    spend = status.spend
    if as_json:
        print_json(
            {
                "run": run.name,
                "final": status.ended,
                "usd": spend and spend.usd,
                "usd_per_hour": spend and spend.usd_per_hour,
                "ceiling_usd": spend and spend.ceiling_usd,
            }
        )
        return
    if spend is None:
        reason = "it ended without a receipt" if status.ended else "it has no nodes yet, or their prices are not known"
        say(f"run {run.name}: cost not known, {reason}")
        return
    pace = "" if status.ended else f" so far, {amounts.usd(spend.usd_per_hour)} USD an hour"
    say(f"run {run.name}: {amounts.usd(spend.usd)} USD{pace}")
    if spend.ceiling_usd is not None:
        say(f"ceiling      {amounts.usd(spend.ceiling_usd)} USD")


def _tell_receipt(receipt: Mapping[str, Any], *, as_json: bool) -> None:
    costs, seconds = receipt.get("cost") or {}, receipt.get("gpu_seconds") or {}
    # A run that ended before its nodes were priced has only the amount that counted against its ceiling.
    usd = costs.get("usd", costs.get("spent_usd"))
    nodes = [{name: node.get(name) for name in NODE_COLUMNS} for node in receipt.get("nodes") or []]
    if as_json:
        print_json(
            {
                "run": receipt.get("run"),
                "final": True,
                "usd": usd,
                **{name: costs.get(name) for name in ("on_demand_usd", "saved_usd", "usd_per_hour", "ceiling_usd")},
                "gpu_seconds": seconds or None,
                "nodes": nodes,
            }
        )
        return
    say(f"run {receipt.get('run')}: {'cost not known' if usd is None else f'{amounts.usd(usd)} USD'}")
    if costs.get("on_demand_usd") is not None:
        saved = costs.get("saved_usd")
        words = "" if saved is None else f", Spot saved {amounts.usd(saved)} USD"
        say(f"On-Demand    {amounts.usd(costs['on_demand_usd'])} USD{words}")
    if costs.get("ceiling_usd") is not None:
        say(f"ceiling      {amounts.usd(costs['ceiling_usd'])} USD")
    if seconds.get("billed") is not None:
        useful = "" if seconds.get("useful") is None else f", {seconds['useful']:.0f} useful"
        ratio = "" if seconds.get("ratio") is None else f" ({seconds['ratio']:.0%})"
        say(f"GPU seconds  {seconds['billed']:.0f} billed{useful}{ratio}")
    if nodes:
        words_of = {"instance_type": "type", "usd": "USD", "on_demand_usd": "On-Demand USD"}
        header = tuple(words_of.get(name, name) for name in NODE_COLUMNS)
        _print_table([header, *(tuple(_cell(node[name]) for name in NODE_COLUMNS) for node in nodes)])


def _print_table(rows: list[tuple[str, ...]]) -> None:
    for line in in_columns(rows):
        say(f"  {line}")


def _cell(value: object) -> str:
    return amounts.usd(value) if isinstance(value, int | float) else str(value or "")


def _amount(value: float | Mapping[str, float] | None) -> str:
    if value is None:
        return "unknown"
    if not isinstance(value, Mapping):
        return amounts.usd(value)
    return amounts.usd_range(value["least"], value["most"])
