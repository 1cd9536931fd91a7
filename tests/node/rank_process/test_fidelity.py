"""What a rank's process adds to a script's own: nothing that the script, or its graph, could notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from horovod_node.rank_process.job import RankJob
from support.node.rings import SCRIPTS


@pytest.mark.ring
def test_graph_is_the_scripts_own(tmp_path: Path) -> None:
    """A function that is traced with and without the averaging has the operations that it has under plain Python."""
    # GIVEN
    script = SCRIPTS / "traced_twice.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": "-1"}
    job = RankJob(
        rank=0,
        code=script.parent,
        entry_point=script.name,
        arguments=(),
        reports=tmp_path,
        agent=os.getpid(),
    )
    # WHEN
    plain, ranks = (
        subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        for command, variables in (
            ([sys.executable, str(script)], environment),
            ([sys.executable, "-P", "-m", "horovod_node.rank_process.rank"], environment | job.to_environment()),
        )
    )
    # THEN
    assert (plain.returncode, ranks.returncode) == (0, 0), plain.stderr + ranks.stderr
    expected = json.loads(plain.stdout.splitlines()[-1])
    assert expected["falls"]
    assert json.loads(ranks.stdout.splitlines()[-1]) == expected
