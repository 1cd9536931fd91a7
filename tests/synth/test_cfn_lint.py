"""cfn-lint reads the templates with CloudFormation's own resource schemas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.synth, pytest.mark.every_engine]

ACCEPTED = {
    "W3005": "CDK adds DependsOn beside a GetAtt: the policy must be there before the state machine is validated",
    "W6001": "the connection names the buckets of the other stack on purpose",
}


def test_cfn_lint_finds_nothing(assembly: Path, engine: str) -> None:
    """No template of the app has an unknown property, a wrong type or a dangling reference."""
    # The definition's joined string is opaque to it: asl-validator reads that one.
    templates = sorted(str(path) for path in assembly.glob("*.template.json"))
    assert len(templates) == {"ec2": 2, "ecs": 1, "sagemaker": 1}[engine]
    # WHEN
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("cfn-lint")),
            "--regions",
            "us-east-1",
            "--ignore-checks",
            *ACCEPTED,
            "--",
            *templates,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # THEN
    assert (done.returncode, done.stdout) == (0, "")
