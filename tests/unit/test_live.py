"""How the live view follows a run, and what becomes of the run when the user presses Ctrl-C."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
import pytest

from horovod_client import RunStatus
from horovod_client.cli.watch.live import follow_live
from horovod_client.cli.watch.session import ViewLeft


def training(stage: str, phase: str) -> RunStatus:
    """Build the status of a run that is somewhere on its way."""
    return RunStatus(run="digits", state="RUNNING", stage=stage, phase=phase, gpus=2)


@dataclass
class Watched:
    """A run that is seen as `seen`, after which the user presses Ctrl-C."""

    seen: tuple[RunStatus, ...]
    name: str = "digits"

    def wait(self, on_progress: Callable[[RunStatus], object], **_: object) -> RunStatus:
        """Show all that is seen."""
        for status in self.seen:
            on_progress(status)
        raise KeyboardInterrupt

    def logs(self, *, follow: bool) -> Iterator[object]:  # noqa: ARG002 - as a run has it
        """Say nothing."""
        return iter(())


def view_of(*seen: RunStatus) -> None:
    """Watch until the user has enough, and presses Ctrl-C at the question, too."""

    def abort(_question: str) -> str:
        raise click.Abort

    with pytest.raises(ViewLeft):
        follow_live(Watched(seen), poll_seconds=0, ask=abort)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "phases"),
    [
        ([("joining", "joining"), ("training", "training")], r"joining > \* training \d+ s > saving"),
        ([("training", "training")], r"joining > \* training > saving"),
        ([("training", "training"), ("training", "training")], r"joining > \* training > saving"),
    ],
)
def test_tells_the_time_of_a_phase_that_it_saw_begin(
    seen: list[tuple[str, str]], phases: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The view shows how long a phase has lasted only if it saw the phase begin."""
    # WHEN
    view_of(*(training(stage, phase) for stage, phase in seen))
    # THEN
    shown = capsys.readouterr().out
    assert re.search(phases, " ".join(shown.split())), shown
    # AND what comes after the question that was cut short has a line of its own
    assert shown.endswith("\n\n")
