"""The dated report of a drill, for people (Markdown) and programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from horovod_client.proof.claims import Claim, claims_about

PASSED: Final = "passed"
FAILED: Final = "failed"
NOT_RUN: Final = "not run"


@dataclass(kw_only=True)
class StepReport:
    """
    Result of one step.

    Args:
        name: Name of the step, one of `claims.STEPS`.
        state: `PASSED`, `FAILED` or `NOT_RUN`.
        began_at: Start in ISO 8601, UTC; empty if it was not run.
        seconds: Duration.
        seen: Observations: names, ids, values.
        said: Message of AWS or of the check that failed; empty unless the step failed.
        emulated: What the local cloud emulated in this step.
    """

    name: str
    state: str = NOT_RUN
    began_at: str = ""
    seconds: float = 0.0
    seen: dict[str, Any] = field(default_factory=dict)
    said: str = ""
    emulated: str = ""


@dataclass(kw_only=True)
class Report:
    """
    Report of a drill.

    Args:
        place: Account and Region, or the local cloud.
        engine: The engine that the drill was of.
        local: Whether it ran in the local cloud.
        began_at: Start in ISO 8601, UTC.
        estimate_usd: Estimated cost.
        limit_usd: Highest permitted cost.
        steps: Results of all steps.
        left: Resources that are left, each with what to do about it.
    """

    place: str
    engine: str
    local: bool
    began_at: str
    estimate_usd: float
    limit_usd: float
    steps: list[StepReport]
    left: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every step passed."""
        return all(step.state == PASSED for step in self.steps)

    def state_of(self, claim: Claim) -> str:
        """Return the state of *claim* in a word or a clause."""
        if claim.step is None:
            return f"not covered by this drill, because {claim.because}"
        state = next(step.state for step in self.steps if step.name == claim.step)
        if state == PASSED:
            return "emulated" if self.local and claim.emulated else "proven"
        return state

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            **asdict(self),
            "passed": self.passed,
            "claims": [
                {"id": claim.id, "says": claim.says, "step": claim.step, "state": self.state_of(claim)}
                for claim in claims_about(self.engine)
            ],
        }

    def to_markdown(self) -> str:
        """Write the report for people."""
        lines = [
            f"# Proof of {self.began_at[:10]}",
            "",
            f"Where: {self.place}, engine {self.engine}. Began {self.began_at}. Estimate {self.estimate_usd:.2f} USD, "
            f"limit {self.limit_usd:.2f} USD.",
            "",
            f"**{'Every step passed.' if self.passed else 'Not every step passed.'}**",
            "",
            "| step | state | began | seconds | seen |",
            "|---|---|---|---|---|",
        ]
        for step in self.steps:
            seen = ", ".join(f"{name} {_shown(value)}" for name, value in step.seen.items())
            notes = "; ".join(
                part for part in (seen, step.said, step.emulated and f"emulated: {step.emulated}") if part
            )
            lines.append(f"| {step.name} | {step.state} | {step.began_at} | {step.seconds:.0f} | {_cell(notes)} |")
        lines += ["", "| claim | |", "|---|---|"]
        lines += [f"| {_cell(claim.says)} | {_cell(self.state_of(claim))} |" for claim in claims_about(self.engine)]
        lines += ["", "What is left:", ""]
        lines += [f"- {item}" for item in self.left] or ["- nothing"]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both forms into *folder*, named by the time of the drill, and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"prove-{self.began_at[:19].replace(':', '').replace('-', '')}Z"
        markdown, document = folder / f"{stem}.md", folder / f"{stem}.json"
        markdown.write_text(self.to_markdown(), encoding="utf-8")
        document.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return markdown, document


def now_text() -> str:
    """Return the current time in ISO 8601, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return " ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
