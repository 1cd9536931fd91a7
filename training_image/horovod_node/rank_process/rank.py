"""
One rank's process: `python -P -m horovod_node.rank_process.rank`, started by the agent.

It runs the user's script as `python script.py` would. It also refuses scripts that would silently train wrongly
(`preflight`), counts training steps (`step_counter`), and reports the exception that ends the script
(`script_failure`).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import runpy
import signal
import sys

from horovod_node import contract
from horovod_node.rank_process import preflight, step_counter
from horovod_node.rank_process.control import AgentConnection
from horovod_node.rank_process.import_hooks import AfterImport
from horovod_node.rank_process.job import RankJob
from horovod_node.rank_process.script_failure import describe

STACK_SIGNAL = signal.SIGUSR1
"""On this signal a rank writes its main thread's stack, even while it hangs inside a call into C."""

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the rank's job and return the process's exit code."""
    job = RankJob.from_environment(os.environ)
    end_with_the_agent(job.agent)
    # Print the stack after a crash in C. One thread only: the crash's own message must stay among the last lines.
    faulthandler.enable(all_threads=False)
    # The file stays open as long as the process lives: a signal handler cannot open files.
    faulthandler.register(STACK_SIGNAL, file=job.stack.open("a"), all_threads=False)
    counter = step_counter.StepCounter(job.progress)
    step_counter.install(counter)
    agent = AgentConnection.from_environment(os.environ)
    AfterImport({**counter.hooks(), **preflight.hooks(), **(agent.hooks() if agent else {})}).install()
    counter.start()
    if agent is not None:
        agent.start()
    try:
        return run_script(job)
    finally:
        counter.close()


def end_with_the_agent(agent: int) -> None:
    """
    Let the kernel kill this process when the agent dies, even by SIGKILL: no rank may train without an agent.

    Processes that the script starts do not inherit this. In a container they end with the agent, which is its first
    process. Elsewhere the agent ends the rank's process group, if it is still able to.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The agent may have died before prctl.
    if os.getppid() != agent:
        raise SystemExit(contract.EXIT_RELEASED)


def run_script(job: RankJob) -> int:
    """Run the script as `__main__`, and report the exception that ends it, if one does."""
    # As in SageMaker: first the script's folder, then the archive's.
    sys.path[:0] = dict.fromkeys((str(job.script.parent), str(job.code)))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(job.code), inherited)))
    sys.argv = [str(job.script), *job.arguments]
    try:
        runpy.run_path(str(job.script), run_name="__main__")
    except SystemExit as end:
        if end.code in (None, 0):
            return 0
        if not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        return _report(job, end, end.code if isinstance(end.code, int) else 1)
    except preflight.PreflightError as refusal:
        return _report(job, refusal, contract.EXIT_PREFLIGHT)
    except BaseException as error:
        return _report(job, error, 1)
    return 0


def _report(job: RankJob, error: BaseException, code: int) -> int:
    failure = describe(error, code=job.code, exit_code=code)
    if not isinstance(error, SystemExit):
        print(failure.traceback, file=sys.stderr, flush=True)
    # Printed before it is written: on a full disk, the agent still has the rank's last lines.
    with contextlib.suppress(OSError):
        failure.write(job.failure)
    return code


if __name__ == "__main__":
    sys.exit(main())
