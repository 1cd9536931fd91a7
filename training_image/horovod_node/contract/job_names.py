"""Names of SageMaker's training jobs. State machines compute the same in JSONata; a test compares both."""

from __future__ import annotations

import hashlib
import re

from horovod_node.contract.run_id import name_of

_RUN_LETTERS = 16


def job_name(prefix: str, *, run_id: str, attempt: int) -> str:
    """
    Return the name of the job that an attempt of a run creates.

    Args:
        prefix: What begins the names of all jobs of the run's fleet.
        run_id: Id of the run.
        attempt: Number of the attempt, from 1.
    """
    run = re.sub(r"[^a-z0-9]+", "-", name_of(run_id).lower())[:_RUN_LETTERS]
    return f"{prefix}{run}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}-{attempt}"
