"""Rendering of a run's receipt for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from horovod_client.errors import HorovodClientError
from horovod_client.text.amounts import byte_size, counted, moment, usd
from horovod_client.text.columns import in_columns
from horovod_node import contract

PARTS = {
    "queue": "in queue",
    "lost": "in lost attempts",
    "capacity": "waiting for capacity",
    "boot": "booting",
    "pull": "pulling the image",
    "join": "joining",
    "install": "installing requirements.txt",
    "train": "training",
    "save": "saving",
    "terminate": "terminating",
}
"""Parts of a receipt's `seconds` in the order of a run, each with its description."""

PLACES = {
    "auto_scaling_group": "Auto Scaling group",
    "cluster": "cluster",
    "services": "services",
    "job_prefix": "jobs named",
}
"""What lets people find a fleet's nodes in the console, each with its description."""

NODE_TIMES = ("from", "until", "usd")
"""Columns that are left out if no node has them."""

TELLERS = {
    contract.PRICE_OF_CONSTRUCT: "from the stack",
    contract.PRICE_OF_LIST: "from the AWS Price List",
    contract.PRICE_OF_SUBMITTER: "from the client that submitted the run",
}
"""Descriptions of the sources of On-Demand prices."""

WORKFLOW = "workflow"
"""Writer of a receipt, unless the run was stopped."""

NODE_COLUMNS = ("node", "gpus", "instance_type", "market", "zone", "from", "until", "usd")
"""Columns for people; the document has more."""


def render_receipt(receipt: Mapping[str, Any]) -> str:
    """
    Render a receipt as lines for a terminal; missing fields are left out.

    Args:
        receipt: Receipt from `Run.receipt`. Which fields it has depends on its writer.

    Raises:
        HorovodClientError: If this release cannot read the receipt's version.
    """
    if receipt.get("version") != contract.RECEIPT_VERSION:
        raise HorovodClientError(
            f"the receipt has version {receipt.get('version')}, but this client supports "
            f"{contract.RECEIPT_VERSION}: install a newer cdk-horovod"
        )
    parts = (_outcome, _facts, _nodes, _jobs, _ring, _gpu_time, _capacity, _restarts, _times, _software, _remarks)
    return "\n".join(line for part in parts for line in part(receipt))


def receipt_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of receipts, which describes every field."""
    text = files("horovod_client").joinpath("receipt.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _outcome(receipt: Mapping[str, Any]) -> Iterator[str]:
    error = receipt.get("error")
    words = ["run", receipt.get("run"), receipt.get("outcome") or "ended"]
    yield f"{' '.join(word for word in words if word)}{f': {error}' if error else ''}"
    for line in str(receipt.get("cause") or "").rstrip().splitlines():
        yield f"  {line}"


def _facts(receipt: Mapping[str, Any]) -> Iterator[str]:
    started = (receipt.get("times") or {}).get("started_at")
    if started:
        yield f"started     {moment(datetime.fromisoformat(started).timestamp())}"
    model = receipt.get("model")
    if model:
        size = model.get("bytes")
        details = ", ".join([*([] if size is None else [byte_size(size)]), *_counted((model.get("files"), "file"))])
        yield f"model       {model.get('uri', 'unknown')}{f' ({details})' if details else ''}"
    ring = _counted((receipt.get("gpus"), "GPU"), (receipt.get("ranks"), "rank"), (receipt.get("steps"), "step"))
    attempts = _counted((receipt.get("attempts"), "attempt"))
    fleet = receipt.get("fleet")
    if ring or attempts:
        facts = ", ".join([*(ring or ["none"]), *attempts])
        yield f"ring        {facts}{f' on fleet {fleet}' if fleet else ''}"
    elif fleet:
        yield f"fleet       {fleet}"
    for place in receipt.get("fleets") or []:
        yield f"engine      {', '.join([str(place.get('engine')), *_places(place)])}"
    yield from _cost(receipt.get("cost") or {})
    yield from _prices(receipt.get("on_demand_prices") or [])


def _places(fleet: Mapping[str, Any]) -> Iterator[str]:
    for name, words in PLACES.items():
        if name == "services":
            # The name of a service ends its ARN.
            found = " ".join(str(arn).rpartition("/")[2] for arn in fleet.get(name) or [])
        else:
            found = str(fleet.get(name) or "")
        if found:
            yield f"{words} {found}{'…' if name == 'job_prefix' else ''}"


def _cost(cost: Mapping[str, Any]) -> Iterator[str]:
    words = {"usd": "{} USD", "ceiling_usd": "ceiling {} USD", "usd_per_hour": "{} USD an hour"}
    facts = [text.format(usd(cost[name])) for name, text in words.items() if cost.get(name) is not None]
    if facts:
        yield f"cost        {', '.join(facts)}"
    whole, saved = cost.get("on_demand_usd"), cost.get("saved_usd")
    if whole is not None:
        share = f" ({saved / whole:.0%})" if saved and whole else ""
        yield f"on-demand   {usd(whole)} USD{f', Spot saved {usd(saved)} USD{share}' if saved else ''}"


def _prices(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for source, words in TELLERS.items():
        told = [f"{row['instance_type']} {usd(row['usd_per_hour'])}" for row in rows if row.get("source") == source]
        if told:
            yield f"prices      On-Demand, USD an hour, {words}: {', '.join(told)}"


def _gpu_time(receipt: Mapping[str, Any]) -> Iterator[str]:
    told = receipt.get("gpu_seconds") or {}
    if told.get("billed") is None:
        return
    facts = [f"{told['billed']:.0f} GPU-seconds billed"]
    if told.get("useful") is not None:
        facts.append(f"{told['useful']:.0f} useful")
    if told.get("ratio") is not None:
        facts.append(f"{told['ratio']:.0%}")
    yield f"GPU time    {', '.join(facts)}"


def _software(receipt: Mapping[str, Any]) -> Iterator[str]:
    if receipt.get("image"):
        yield f"image       {receipt['image']}"
    if receipt.get("library_version"):
        yield f"library     cdk-horovod {receipt['library_version']}"


def _ring(receipt: Mapping[str, Any]) -> Iterator[str]:
    """Render the elastic ring, its interruptions and its slowest rank."""
    ring = receipt.get("ring") or {}
    if ring.get("elastic"):
        least, most = ring.get("smallest"), ring.get("largest")
        sizes = _counted((most, "GPU")) if least == most else [f"{least} to {most} GPUs"]
        losses = _counted((ring.get("resets"), "ring reset"), (ring.get("repeated_steps"), "repeated step"))
        yield f"  elastic: {', '.join([*sizes, *losses])}"
    resumed = ring.get("resumed")
    if resumed:
        step = "" if resumed.get("step") is None else f", step {resumed['step']}"
        yield f"  resumed from a checkpoint of run {resumed.get('run')}{step}"
    for notice in ring.get("interruptions") or []:
        left = ", and left in order" if notice.get("left_in_order") else ""
        yield f"  {notice.get('node')} got an interruption notice ({notice.get('kind')}){left}"
    slowest = ring.get("slowest")
    if (
        slowest and round(slowest["cost"], 2) > 0
    ):  # one rank is always the slowest; it matters only if others waited for it
        yield (
            f"  slowest rank: {slowest['rank']} on {slowest['node']} ({slowest['instance_type']}), "
            f"{slowest['seconds_per_step']:.3g} s a step, the median is {slowest['median_seconds_per_step']:.3g} s; "
            f"the others waited for it in {slowest['cost']:.0%} of the ring's time"
        )


def _nodes(receipt: Mapping[str, Any]) -> Iterator[str]:
    nodes = receipt.get("nodes") or []
    if not nodes:
        return
    columns = [column for column in NODE_COLUMNS if column not in NODE_TIMES or any(column in node for node in nodes)]
    header = ["type" if column == "instance_type" else column for column in columns]
    rows = [header, *([_cell(node, column) for column in columns] for node in nodes)]
    for row, line in zip(rows, in_columns(rows), strict=True):
        yield f"  {line}{'  leader' if row[0] == receipt.get('leader') else ''}"
    more = receipt.get("more_nodes")
    if more:
        cost = "" if more.get("usd") is None else f", {usd(more['usd'])} USD"
        yield f"  and {counted(more['count'], 'more node')}{cost}"


def _jobs(receipt: Mapping[str, Any]) -> Iterator[str]:
    for job in receipt.get("jobs") or []:
        yield (
            f"  job {job['job']}: {job['nodes']} x {job['instance_type']} ({job['market']}), "
            f"{job['billed_seconds']} of {job['seconds']} s are billed"
        )


def _cell(node: Mapping[str, Any], column: str) -> str:
    value = node.get(column, "")
    if column == "usd" and value != "":
        return usd(value)
    if column in ("from", "until"):
        # The time of day is enough: the receipt shows the date, and its times are in UTC.
        return f"{str(value)[11:19]} UTC" if value else ""
    return str(value)


def _capacity(receipt: Mapping[str, Any]) -> Iterator[str]:
    """Render every attempt to get nodes, unless the first one succeeded."""
    attempts = receipt.get("capacity") or []
    if len(attempts) < 2 and not any(attempt.get("said") for attempt in attempts):
        return
    several = len({attempt.get("fleet") for attempt in attempts}) > 1
    for attempt in attempts:
        said = f": {attempt['said']}" if attempt.get("said") else ""
        fleet = f"{attempt.get('fleet')}: " if several else ""
        yield f"capacity    {fleet}{attempt.get('words')}, {attempt.get('seconds')} s, {attempt.get('outcome')}{said}"


def _restarts(receipt: Mapping[str, Any]) -> Iterator[str]:
    for lost in receipt.get("restarts") or []:
        reason = (str(lost.get("cause") or "").splitlines() or [""])[0]
        yield f"restart     after attempt {lost.get('attempt')}: {lost.get('error')}: {reason}"


def _times(receipt: Mapping[str, Any]) -> Iterator[str]:
    seconds = receipt.get("seconds") or {}
    for part, words in PARTS.items():
        if seconds.get(part) is not None:
            yield f"{seconds[part]:10.1f} s  {words}"


def _remarks(receipt: Mapping[str, Any]) -> Iterator[str]:
    if receipt.get("partial"):
        yield f"partial     {receipt['partial']}"
    if receipt.get(contract.NOTICE):
        yield f"notice      {receipt[contract.NOTICE]}"
    writer = receipt.get("written_by") or WORKFLOW
    if writer != WORKFLOW:
        yield f"written by  the {writer}, after the execution had ended"


def _counted(*facts: tuple[int | None, str]) -> list[str]:
    return [counted(number, noun) for number, noun in facts if number is not None]
