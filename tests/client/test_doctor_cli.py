"""`cdk-horovod doctor` against emulated APIs, which do not know everything that the doctor asks for."""

from __future__ import annotations

import json

import pytest

from horovod_client.cli import main
from support.fake_account import STACK, Account


def test_finds_the_training_well(
    account: Account,  # noqa: ARG001 - the stack must be there
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A training with everything that a run needs passes; what cannot be asked is a warning."""
    # WHEN
    code = main(["doctor", "--stack", STACK, "--json"])
    # THEN
    captured = capsys.readouterr()
    states = {check["name"]: check["state"] for check in json.loads(captured.out)["checks"]}
    assert (code, captured.err) == (0, "")
    assert {
        name: states[name] for name in ("credentials", "stack", "runs", "ledger", "data bucket", "model bucket")
    } == dict.fromkeys(("credentials", "stack", "runs", "ledger", "data bucket", "model bucket"), "ok")
    assert {"On-Demand G", "Spot G"} <= states.keys()


def test_a_failed_check_is_exit_code_1(account: Account, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ARG001
    """A failed check ends the doctor with exit code 1, so that a script stops."""
    # WHEN
    code = main(["doctor", "--stack", "NoSuchStack"])
    # THEN
    assert code == 1
    *_, line, fix = capsys.readouterr().out.splitlines()
    assert line.startswith("fail  stack           there is no stack 'NoSuchStack' in eu-west-1")
    assert fix.strip().startswith("deploy the stack")
