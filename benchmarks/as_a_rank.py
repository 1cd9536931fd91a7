"""`as_a_rank.py REPORTS SCRIPT [ARGUMENT ...]`: becomes the process that the agent would start for the script."""

import os
import sys
from pathlib import Path

from horovod_node.rank_process.job import RankJob

script = Path(sys.argv[2]).resolve()
job = RankJob(
    rank=int(os.environ["HOROVOD_RANK"]),
    code=script.parent,
    entry_point=script.name,
    arguments=tuple(sys.argv[3:]),
    reports=Path(sys.argv[1]),
    agent=os.getppid(),
)
environment = {**os.environ, **job.to_environment(), "PYTHONUNBUFFERED": "1"}
os.execve(sys.executable, [sys.executable, "-P", "-m", "horovod_node.rank_process.rank"], environment)  # noqa: S606 - it becomes that process
