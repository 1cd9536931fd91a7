"""The public API changes only on purpose."""

from __future__ import annotations

import difflib

import pytest

from support.public_api import api_text
from support.snapshots import SNAPSHOTS

FILE = SNAPSHOTS / "public-api.txt"


@pytest.fixture(scope="module")
def text() -> str:
    return api_text()


def changes(before: str, after: str) -> list[str]:
    """List the lines that went, with '-', and those that came, with '+'."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in [*lines][2:] if not line.startswith("@@")]


def test_public_api_is_the_reviewed_one(text: str, request: pytest.FixtureRequest) -> None:
    """Every signature is that of the committed list; a failure lists what went and what came."""
    # WHEN
    if request.config.getoption("--update-snapshots"):
        FILE.write_text(text)

    # THEN
    found = changes(FILE.read_text(), text)
    assert not found, "\n".join(
        [
            "the public API has changed. A line with '-' breaks its users: see 'Versions' in CONTRIBUTING.md.",
            "If it is meant, run `make snapshots`, and tell of it in CHANGELOG.md:",
            *found,
        ]
    )


def test_changes_read_as_a_list(text: str) -> None:
    """A parameter that gets another default is one line that went and one that came."""
    # GIVEN
    line = "cdk_horovod.GpuFleet(efa: bool = False)"

    # WHEN
    found = changes(text, text.replace(line, line.replace("False", "True")))

    # THEN
    assert found == [f"-{line}", "+cdk_horovod.GpuFleet(efa: bool = True)"]


def test_every_kind_of_interface_is_listed(text: str) -> None:
    """Constructs, inherited methods, the client, helpers of scripts, commands and requests are in the list."""
    # WHEN
    lines = set(text.splitlines())

    # THEN
    assert {
        "cdk_horovod.HorovodTraining([0] scope: Construct)",
        "cdk_horovod.HorovodTraining.grant_start() -> iam.Grant",
        "cdk_horovod.TrainingImage.from_profile([0] profile: Mapping[str, str] | None = None)",
        "horovod_client.TrainingClient.fit(gpus: int)",
        "horovod_node.torch_training.fit(epochs: int = 1)",
        "cdk-horovod train SCRIPT (required)",
        "cdk-horovod train --gpus (required)",
        "request source: string (required)",
    } <= lines
