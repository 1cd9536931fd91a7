"""The whole drill against the local cloud: the same steps as in an account."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from horovod_client.cli import main
from horovod_client.proof.claims import ENGINES, steps_of
from support.synthesis import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.local]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_drill_passes_and_says_what_it_saw(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step passes, and the report has its values; nothing is left but what is kept on purpose."""
    # GIVEN a checkout
    monkeypatch.chdir(REPOSITORY)
    # WHEN
    code = main(["prove", "--local", "--engine", engine, "--json", "--report", str(tmp_path)])
    # THEN
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    steps = {step["name"]: step for step in report["steps"]}
    assert {name: step["said"] for name, step in steps.items() if step["state"] != "passed"} == {}
    assert (code, list(steps), report["passed"], report["local"]) == (0, list(steps_of(engine)), True, True)
    assert steps["train"]["seen"]["accuracy"] > 0.85
    assert "interrupt" not in steps or steps["interrupt"]["seen"]["resets"] >= 1
    assert steps["zero"]["seen"] == {"nodes": 0, "desired": 0}
    assert 0 < steps["cost"]["seen"]["total_usd"] < report["limit_usd"]
    # One sum, and one cost for each run.
    runs = [step for step in steps.values() if "run" in step["seen"]]
    assert len(steps["cost"]["seen"]) == 1 + len(runs)
    assert len(steps["destroy"]["seen"]["kept"]) == 4
    assert steps["reaper"]["seen"]["zero_after_s"] < steps["switch"]["seen"]["zero_after_s"]
    assert sorted(line.split()[0] for line in report["left"]) == ["bucket", "bucket", "bucket", "key"]
    # AND both forms of the report are there
    assert len(list(tmp_path.glob("prove-*.md"))) == len(list(tmp_path.glob("prove-*.json"))) == 1
