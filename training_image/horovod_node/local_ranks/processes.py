"""The rank processes of this node."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from horovod_node import contract
from horovod_node.node.errors import RunError
from horovod_node.node.rank_output import RankOutput, print_line, read_lines
from horovod_node.rank_process.control import ENV_CONTROL, RankConnection
from horovod_node.rank_process.job import RankJob
from horovod_node.rank_process.progress import Progress
from horovod_node.rank_process.rank import STACK_SIGNAL
from horovod_node.rank_process.script_failure import ScriptFailure

STOP_SECONDS = 5.0
"""Seconds between SIGTERM and SIGKILL: half of the time that `docker stop` gives the agent."""
TAIL_LINES = 60
_STACK_SECONDS = 2.0
"""How long ranks may take to write their stacks."""
_STACK_LOOK_SECONDS = 0.2
"""Seconds between two polls of the stacks; a file that has not grown meanwhile is complete."""
_OUTPUT_SECONDS = 5.0
"""How long to wait for the end of an ended rank's output; processes that it left behind may keep it open for ever."""


@dataclass(frozen=True, kw_only=True)
class RankEnd:
    """
    How a rank failed.

    Args:
        rank: Number of the rank.
        exit_code: Exit code of its process; a negative one is the signal that killed it.
        report: The exception that ended the script, if the rank could still report it.
        tail: The last lines of its output.
        at: Epoch seconds.
    """

    rank: int
    exit_code: int
    report: ScriptFailure | None
    tail: str
    at: float


class Ranks:
    """
    Starts ranks, each in its own process group, and forwards their output.

    Create it in the main thread: the kernel ends a rank with the thread that started it (see `rank`).

    Args:
        jobs: Job of each rank.
        environments: Environment of each rank, in the same order.
        output: Called with every line that a rank prints.
        python: The ranks' Python interpreter. Default: the agent's.
        elastic: Whether the ranks wait in `hvd.init()` until they receive their ring.
    """

    def __init__(
        self,
        jobs: Sequence[RankJob],
        environments: Sequence[Mapping[str, str]],
        *,
        output: RankOutput = print_line,
        python: str = sys.executable,
        elastic: bool = False,
    ) -> None:
        self._ranks: list[_Rank] = []
        try:
            for job, environment in zip(jobs, environments, strict=True):
                self._ranks.append(_Rank(job, environment, output, python, RankConnection() if elastic else None))
        except BaseException:
            self.stop()
            raise

    @property
    def lines(self) -> dict[int, RankConnection]:
        """Connections to the ranks of an elastic ring, by their jobs' numbers."""
        return {rank.job.rank: rank.line for rank in self._ranks if rank.line is not None}

    def number(self, rank: int) -> int:
        """Return the number in the ring of the rank whose job has the number *rank*."""
        return next(each.number for each in self._ranks if each.job.rank == rank)

    def exit_codes(self) -> dict[int, int]:
        """Return the exit code of each process that has ended; a negative one is the signal that killed it."""
        codes = ((rank.job.rank, rank.poll()) for rank in self._ranks)
        return {rank: code for rank, code in codes if code is not None}

    @property
    def running(self) -> list[int]:
        """Ranks whose process has not ended."""
        return [rank.job.rank for rank in self._ranks if rank.poll() is None]

    @property
    def process_ids(self) -> list[int]:
        """Ids of the processes that have not ended."""
        return [rank.process.pid for rank in self._ranks if rank.poll() is None]

    @property
    def done(self) -> bool:
        """Whether every rank ended with exit code 0."""
        return all(rank.poll() == 0 for rank in self._ranks)

    def failed(self) -> list[RankEnd]:
        """List the ranks that failed so far, the earliest first."""
        ends = (rank.failure() for rank in self._ranks)
        return sorted((end for end in ends if end is not None), key=lambda end: (end.at, end.rank))

    def progress(self) -> dict[int, Progress]:
        """Return the progress of each rank."""
        return {rank.job.rank: Progress.read(rank.job.progress) for rank in self._ranks}

    def stacks(self) -> dict[int, str]:
        """Return the stack of every running rank; '' for a rank that does not respond."""
        running = [rank for rank in self._ranks if rank.poll() is None]
        for rank in running:
            rank.ask_stack()
        give_up_at = time.monotonic() + _STACK_SECONDS
        sizes: list[int] = []
        while time.monotonic() < give_up_at:
            time.sleep(_STACK_LOOK_SECONDS)
            before, sizes = sizes, [rank.job.stack.stat().st_size for rank in running]
            if all(sizes) and sizes == before:
                break
        return {rank.job.rank: rank.job.stack.read_text(errors="replace") for rank in running}

    def ask_to_stop(self) -> None:
        """Send SIGTERM to every rank and its child processes, without waiting."""
        for rank in self._ranks:
            rank.send(signal.SIGTERM)

    def stop(self) -> None:
        """End every rank and its child processes with SIGTERM, and after `STOP_SECONDS` with SIGKILL."""
        self.ask_to_stop()
        give_up_at = time.monotonic() + STOP_SECONDS
        while time.monotonic() < give_up_at and any(rank.poll() is None for rank in self._ranks):
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """Kill every rank that still runs, and its child processes."""
        for rank in self._ranks:
            rank.send(signal.SIGKILL)
            rank.reap()
            if rank.line is not None:
                rank.line.close()


class _Rank:
    """One rank's process."""

    def __init__(
        self, job: RankJob, environment: Mapping[str, str], output: RankOutput, python: str, line: RankConnection | None
    ) -> None:
        self.job = job
        self.line = line
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._ended_at: float | None = None
        # An earlier process of the same rank may have left reports.
        for stale in (job.progress, job.failure):
            stale.unlink(missing_ok=True)
        job.stack.touch()
        # -P: the script's folder must not be able to stand in for a module that the rank itself needs.
        try:
            self.process = subprocess.Popen(
                [python, "-P", "-m", "horovod_node.rank_process.rank"],
                env={**environment, **({} if line is None else {ENV_CONTROL: str(line.ranks_end.fileno())})},
                pass_fds=() if line is None else (line.ranks_end.fileno(),),
                cwd=job.code,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            # E2BIG and ValueError: arguments that are too long, or that are not text. The request's check should have
            # refused them; another node would fail, too.
            if isinstance(error, OSError) and error.errno != errno.E2BIG:
                raise
            raise RunError(
                contract.ERROR_INVALID_REQUEST, f"A script cannot be started with this request: {error}."
            ) from error
        if line is not None:
            line.handed_over()
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout, output), daemon=True)
        self._reader.start()

    @property
    def number(self) -> int:
        """The rank's number in the ring, or its job's number if the ring has not been formed."""
        return self.job.rank if self.line is None or self.line.rank is None else self.line.rank

    def poll(self) -> int | None:
        if self.line is not None:
            self.line.poll()
        code = self.process.poll()
        if code is not None and self._ended_at is None:
            self._ended_at = time.time()
            # Kill processes that the script left behind, also so that the reader reaches the end of the output.
            self._kill_group(signal.SIGKILL)
            self._reader.join(timeout=_OUTPUT_SECONDS)
        return code

    def failure(self) -> RankEnd | None:
        code = self.poll()
        report = ScriptFailure.read(self.job.failure)
        if report is None and code in (None, 0):
            return None
        # A report counts before the process ends, because threads of the script may delay its end. But if the report
        # has no message, wait a moment for the process's last lines.
        if report is not None and report.silent and code is None and time.time() - report.at < _OUTPUT_SECONDS:
            return None
        return RankEnd(
            rank=self.number,
            exit_code=report.exit_code if report else code or 0,
            report=report,
            tail="".join(self._tail),
            at=report.at if report else self._ended_at or time.time(),
        )

    def ask_stack(self) -> None:
        os.truncate(self.job.stack, 0)
        self.process.send_signal(STACK_SIGNAL)

    def send(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self._kill_group(number)

    def reap(self) -> None:
        # A process inside a driver call dies only when the call returns; the agent must not wait for that.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=STOP_SECONDS)
        self.poll()

    def _kill_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _read(self, stream: IO[bytes], output: RankOutput) -> None:
        for line in read_lines(stream):
            self._tail.append(line)
            output(self.number, line)
