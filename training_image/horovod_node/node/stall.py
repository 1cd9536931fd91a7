"""Detects ranks that take no more steps, and describes where they stand still."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$')


@dataclass(frozen=True, kw_only=True)
class RankStack:
    """
    Where a rank was when its node detected a stall.

    Args:
        rank: The rank.
        node: Name of its node.
        address: Address of its node.
        step: Its last training step.
        silent_seconds: Time since that step.
        answered: Whether it printed its stack. A process that was stopped (SIGSTOP) or hangs inside the kernel cannot,
            and then the others wait for it.
        place: The script's innermost line: `train.py:31 in main`; empty if unknown.
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
    Finds stalled ranks by the time since their last step.

    Args:
        first_step_seconds: Longest time from the start to the first step.
        stall_seconds: Longest time between two steps.
        now: The time of the start, in seconds of a monotonic clock.
    """

    def __init__(self, *, first_step_seconds: float, stall_seconds: float, now: float) -> None:
        self._first_step_seconds = first_step_seconds
        self._stall_seconds = stall_seconds
        self._started = now
        self._advances: dict[int, int] = {}
        self._since: dict[int, float] = {}

    def see(self, advances: Mapping[int, int], *, now: float) -> None:
        """Record each running rank's count of steps; a rank that is missing has ended and cannot stall."""
        for rank in list(self._advances):
            if rank not in advances:
                del self._advances[rank], self._since[rank]
        for rank, count in advances.items():
            if rank not in self._advances:
                self._advances[rank], self._since[rank] = 0, self._started
            if count > self._advances[rank]:
                self._advances[rank], self._since[rank] = count, now

    def begin(self, rank: int, *, advances: int, now: float) -> None:
        """Restart the time of *rank*: its ring has only formed now, however long ago the rank was started."""
        self._advances[rank], self._since[rank] = advances, now

    def silent_seconds(self, rank: int, *, now: float) -> float:
        """Return the time since *rank* took its last step, or since the start."""
        return now - self._since.get(rank, self._started)

    def stalled(self, *, now: float, part: float = 1.0) -> list[int]:
        """List the ranks whose last step is longer ago than *part* of their limit."""
        return [
            rank
            for rank, count in sorted(self._advances.items())
            if self.silent_seconds(rank, now=now) > part * (self._stall_seconds if count else self._first_step_seconds)
        ]


def find_place(stack: str, *, code: Path) -> tuple[str, bool]:
    """
    Find the script's innermost line in *stack*, as faulthandler writes it: innermost call first.

    Returns:
        The line as `file:line in function`, and whether it is the stack's innermost line.
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
    """Say which ranks stand still and where, those first for which the others most likely wait."""
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
