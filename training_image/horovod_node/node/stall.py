"""When a rank stands still, and where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$')


@dataclass(frozen=True, kw_only=True)
class RankStack:
    """
    What a rank was doing when its node found that ranks stand still.

    Args:
        rank: Its number.
        node: The node that runs it.
        address: The node's address.
        step: Its last training step.
        silent_seconds: Time since that step.
        answered: Whether it could tell where it stands. A process that was stopped (SIGSTOP) or hangs inside the kernel
            cannot, and then the others wait for it.
        place: The script's innermost line: `train.py:31 in main`; empty when none could be told.
        in_script: Whether that line itself runs, not a library that it called. A rank that waits for others waits
            inside TensorFlow; a rank that others wait for seldom does.
    """

    rank: int
    node: str
    address: str
    step: int
    silent_seconds: int
    answered: bool
    place: str
    in_script: bool


class StepWatch:
    """
    Judges ranks by their last advance.

    Args:
        first_step_seconds: The first advance must come this long after the start.
        stall_seconds: Every later one must come this long after the one before.
        now: The time of the start, in seconds of any clock that never goes back.
    """

    def __init__(self, *, first_step_seconds: float, stall_seconds: float, now: float) -> None:
        self._first_step_seconds = first_step_seconds
        self._stall_seconds = stall_seconds
        self._started = now
        self._advances: dict[int, int] = {}
        self._since: dict[int, float] = {}

    def see(self, advances: Mapping[int, int], *, now: float) -> None:
        """Take what each running rank says of its advances; a rank that is not named has ended and is not judged."""
        for rank in list(self._advances):
            if rank not in advances:
                del self._advances[rank], self._since[rank]
        for rank, count in advances.items():
            if rank not in self._advances:
                self._advances[rank], self._since[rank] = 0, self._started
            if count > self._advances[rank]:
                self._advances[rank], self._since[rank] = count, now

    def begin(self, rank: int, *, advances: int, now: float) -> None:
        """Judge *rank* from now on: its ring was formed only now, however long ago it was started."""
        self._advances[rank], self._since[rank] = advances, now

    def silent_seconds(self, rank: int, *, now: float) -> float:
        """Tell how long ago *rank* advanced, or started."""
        return now - self._since.get(rank, self._started)

    def stalled(self, *, now: float, part: float = 1.0) -> list[int]:
        """List the ranks that stand still for longer than they may, or for more than a *part* of that."""
        return [
            rank
            for rank, count in sorted(self._advances.items())
            if self.silent_seconds(rank, now=now) > part * (self._stall_seconds if count else self._first_step_seconds)
        ]


def find_place(stack: str, *, code: Path) -> tuple[str, bool]:
    """
    Find the script's innermost line in *stack*, as faulthandler writes it: innermost call first.

    Returns:
        The line as `file:line in function`, and whether it is the innermost of all.
    """
    innermost = True
    for line in stack.splitlines():
        frame = _FRAME.match(line)
        if frame is None:
            continue
        file = Path(frame["file"])
        if file.is_relative_to(code):
            return f"{file.relative_to(code)}:{frame['line']} in {frame['function']}", innermost
        innermost = False
    return "", False


def describe_stall(stacks: Sequence[RankStack]) -> str:
    """Say which ranks stand still, where, and which of them the others most likely wait for."""
    ordered = sorted(stacks, key=lambda stack: (stack.answered, not stack.in_script, stack.step, stack.rank))
    first = ordered[0]
    what = f"No training step for {first.silent_seconds} s"
    what += f"; the last was step {first.step}." if first.step else "; not even the first came."
    lines = [f"{what} The ranks, the most suspicious first:"]
    for stack in ordered:
        lines.append(f"rank {stack.rank} on {stack.node} ({stack.address}), step {stack.step}: {_where(stack)}")
    return "\n".join(lines)


def _where(stack: RankStack) -> str:
    if not stack.answered:
        return "does not answer, its process is stopped or hangs inside the kernel"
    if not stack.place:
        return "outside of the script"
    return f"in {stack.place}" if stack.in_script else f"inside a call from {stack.place}"
