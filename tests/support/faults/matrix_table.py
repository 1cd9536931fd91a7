"""The fault matrix as a table for people, filled by the tests that prove its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

HEAD: Final = """# Fault matrix

`make faults` writes this page from test results. For each fault (rows) in each phase of a run (columns) it shows how
the run ended, the writer of its receipt if that was not the run's own workflow, and the bound within which the fleet
was empty, in terms of the construct's timeouts ([termination.md](termination.md)). Each test also checked that the
lease was free, that the receipt named the cause, and that a run in another fleet was not affected. `-`: the fault
cannot happen in this phase.

The dead-man's switches are off in all cells of the first table. The second table shows each layer with all others off.

"""


LAYERS: Final = ("Catch", "clean-up", "reaper", "dead-man's switch")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """
    What one test saw.

    Args:
        phase: Name of the phase: the column.
        fault: Name of the fault: the row.
        receipt: The receipt of the run to which it happened.
        bound: The time within which nothing was left, as a formula.
    """

    phase: str
    fault: str
    receipt: Mapping[str, object]
    bound: str

    def __str__(self) -> str:
        writer = self.receipt.get("written_by", "workflow")
        ended = str(self.receipt.get("error", "succeeded"))
        return f"{ended}{'' if writer == 'workflow' else f' ({writer})'}<br>≤ {self.bound}"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """
    What one layer did with all others off.

    Args:
        name: The layer, one of `LAYERS`.
        fault: Name of the fault that it was tried with.
        ended: How the run ended.
        bound: The time within which nothing was left, as a formula.
    """

    name: str
    fault: str
    ended: str
    bound: str


class Table:
    """Collects what tests saw, and writes it in the order of the matrix."""

    def __init__(self) -> None:
        self._cells: dict[str, str] = {}
        self._layers: dict[str, str] = {}

    def add(self, cell: Cell) -> None:
        """Take what a test saw."""
        self._cells[f"{cell.fault}|{cell.phase}"] = str(cell)

    def add_layer(self, layer: Layer) -> None:
        """Take what a layer did alone."""
        self._layers[f"{layer.name} | {layer.fault}"] = f"{layer.ended} | ≤ {layer.bound}"

    def to_json(self) -> dict[str, dict[str, str]]:
        """Write what is known, for a later session that repeats what failed in this one."""
        return {"cells": self._cells, "layers": self._layers}

    def take(self, known: Mapping[str, Mapping[str, str]]) -> None:
        """Take what an earlier session knew, or another worker; what is known here counts."""
        self._cells = {**known.get("cells", {}), **self._cells}
        self._layers = {**known.get("layers", {}), **self._layers}

    def markdown(self, *, phases: list[str], faults: list[str]) -> str:
        """Write the tables."""
        lines = ["| | " + " | ".join(phases) + " |", "|---" * (len(phases) + 1) + "|"]
        for fault in faults:
            row = [self._cells.get(f"{fault}|{phase}", "-") for phase in phases]
            lines.append(f"| **{fault}** | " + " | ".join(row) + " |")
        lines += ["", "## Each layer alone", "", "| layer | tried with | the run ended | bound |", "|---|---|---|---|"]
        lines += [f"| {tried} | {seen} |" for tried, seen in sorted(self._layers.items(), key=_place)]
        return HEAD + "\n".join(lines) + "\n"


def _place(row: tuple[str, str]) -> tuple[int, str]:
    tried, _ = row
    return LAYERS.index(tried.partition(" | ")[0]), tried


TABLE: Final = Table()
"""One session of tests fills one table."""
