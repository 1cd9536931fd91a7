"""The job that the agent passes to a rank's process, in one environment variable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ENV_RANK_JOB: Final = "CDK_HOROVOD_RANK_JOB"
"""JSON of a `RankJob`; only the agent writes it and only `horovod_node.rank_process.rank` reads it."""


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """
    One rank's job.

    Args:
        rank: Number of the rank in the ring. In an elastic ring, where that number changes, its local rank on the node.
        code: Folder of the unpacked archive.
        entry_point: Path of the script in *code*.
        arguments: The script's command line.
        reports: Folder for the rank's reports.
        agent: Process id of the agent; the rank ends with the agent.
    """

    rank: int
    code: Path
    entry_point: str
    arguments: tuple[str, ...]
    reports: Path
    agent: int

    @property
    def script(self) -> Path:
        """The script's full path."""
        return self.code / self.entry_point

    @property
    def progress(self) -> Path:
        """File in which the rank reports its steps."""
        return self.reports / f"rank-{self.rank}.progress"

    @property
    def failure(self) -> Path:
        """File in which the rank reports the exception that ended the script."""
        return self.reports / f"rank-{self.rank}.failure"

    @property
    def stack(self) -> Path:
        """File to which the rank writes its stack when the agent asks."""
        return self.reports / f"rank-{self.rank}.stack"

    def to_environment(self) -> dict[str, str]:
        """Write the job as environment variables."""
        fields = asdict(self) | {"code": str(self.code), "reports": str(self.reports)}
        return {ENV_RANK_JOB: json.dumps(fields, separators=(",", ":"), ensure_ascii=False)}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> RankJob:
        """Read the job that the agent wrote."""
        fields = json.loads(environment[ENV_RANK_JOB])
        return cls(
            rank=fields["rank"],
            code=Path(fields["code"]),
            entry_point=fields["entry_point"],
            arguments=tuple(fields["arguments"]),
            reports=Path(fields["reports"]),
            agent=fields["agent"],
        )
