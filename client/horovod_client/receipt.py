"""The receipt of a run, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from horovod_client.errors import HorovodClientError

RECEIPT_VERSION = 1

MILESTONES = (
    ("started_at", None),
    ("reserved_at", "in queue"),
    ("ring_at", "starting"),
    ("trained_at", "training"),
    ("saved_at", "saving"),
    ("terminated_at", "terminating"),
)
"""Times of a receipt in the order of a run, each with what the time since the one before it was spent on."""

NODE_COLUMNS = ("node", "gpus", "instance_type", "market", "zone", "address")


def render_receipt(receipt: Mapping[str, Any]) -> str:
    """
    Write a receipt as lines for a terminal.

    Args:
        receipt: As `Run.receipt` returns it.

    Raises:
        HorovodClientError: If the receipt is of a version that this release cannot read.
    """
    if receipt.get("version") != RECEIPT_VERSION:
        raise HorovodClientError(
            f"the receipt is of version {receipt.get('version')} and this client reads version {RECEIPT_VERSION}: "
            f"install a newer cdk-horovod"
        )
    return "\n".join([*_outcome(receipt), *_facts(receipt), *_nodes(receipt), *_times(receipt)])


def seconds_of(times: Mapping[str, str | None]) -> dict[str, float]:
    """
    Tell how long each part of a run took, in seconds and in order.

    A run that failed did not pass every milestone; the parts between two that it did pass are told together, as in
    `training, saving, terminating`.

    Args:
        times: The receipt's `times`: milestone to ISO 8601 time; one that was not passed is left out or None.
    """
    spent: dict[str, float] = {}
    previous: datetime | None = None
    parts: list[str] = []
    for milestone, part in MILESTONES:
        if part is not None:
            parts.append(part)
        text = times.get(milestone)
        if text is None:
            continue
        reached = datetime.fromisoformat(text)
        if previous is not None:
            spent[", ".join(parts)] = (reached - previous).total_seconds()
        previous, parts = reached, []
    return spent


def _outcome(receipt: Mapping[str, Any]) -> Iterator[str]:
    error = receipt.get("error")
    yield f"run {receipt['run']} {receipt['outcome']}{f': {error}' if error else ''}"
    for line in str(receipt.get("cause") or "").rstrip().splitlines():
        yield f"  {line}"


def _facts(receipt: Mapping[str, Any]) -> Iterator[str]:
    model = receipt.get("model")
    if model:
        yield f"model       {model['uri']} ({_size(model['bytes'])}, {_count(model['files'], 'file')})"
    counted = [(receipt.get("gpus"), "GPU"), (receipt.get("ranks"), "rank"), (receipt.get("steps"), "step")]
    ring = ", ".join(_count(number, noun) for number, noun in counted if number is not None)
    yield f"ring        {ring or 'none'}, {_count(receipt['attempts'], 'attempt')} on fleet {receipt['fleet']}"


def _nodes(receipt: Mapping[str, Any]) -> Iterator[str]:
    nodes = receipt.get("nodes") or []
    if not nodes:
        return
    rows = [NODE_COLUMNS, *(tuple(str(node.get(column, "")) for column in NODE_COLUMNS) for node in nodes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield f"  {line}{'  leads' if row[0] == receipt.get('leader') else ''}"


def _times(receipt: Mapping[str, Any]) -> Iterator[str]:
    for part, seconds in seconds_of(receipt.get("times") or {}).items():
        yield f"{seconds:10.1f} s  {part}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
