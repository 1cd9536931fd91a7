"""A rank's process runs a script as Python would, and tells how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from horovod_node import contract
from horovod_node.rank_process.job import RankJob
from horovod_node.rank_process.progress import Progress
from horovod_node.rank_process.script_failure import ORIGIN_RING, ORIGIN_SCRIPT, ScriptFailure


@pytest.fixture
def job(tmp_path: Path) -> RankJob:
    """Make the job of a script `nets/train.py`."""
    (tmp_path / "code" / "nets").mkdir(parents=True)
    (tmp_path / "ranks").mkdir()
    return RankJob(
        rank=3,
        code=tmp_path / "code",
        entry_point="nets/train.py",
        arguments=("--epochs", "2", "--name", "a b"),
        reports=tmp_path / "ranks",
        agent=os.getpid(),
    )


def run(job: RankJob, script: str) -> subprocess.CompletedProcess[str]:
    """Run *script* as the job's rank."""
    job.script.write_text(script)
    return subprocess.run(
        [sys.executable, "-P", "-m", "horovod_node.rank_process.rank"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **job.to_environment()},
        cwd=job.code,
        capture_output=True,
        text=True,
        check=False,
    )


def test_script_sees_what_python_would_show_it(job: RankJob) -> None:
    """`__main__`, `__file__`, arguments, the folders of the script and of the archive first on the path."""
    # GIVEN
    (job.code / "nets" / "beside.py").write_text("")
    (job.code / "above.py").write_text("")
    # WHEN
    ended = run(
        job,
        "import above, beside, json, os, sys\n"
        "main = sys.modules['__main__'].__file__\n"
        "print(json.dumps([__name__, __file__, sys.argv, sys.path[:2], os.getcwd(), main]))",
    )
    # THEN
    script = str(job.script)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [
        "__main__",
        script,
        [script, "--epochs", "2", "--name", "a b"],
        [str(job.script.parent), str(job.code)],
        str(job.code),
        script,
    ]
    assert ScriptFailure.read(job.failure) is None


def test_script_may_start_processes_of_its_own(job: RankJob) -> None:
    """`multiprocessing` finds the script's functions in the processes that it spawns."""
    # WHEN
    ended = run(
        job,
        "import multiprocessing\n"
        "def double(number): return 2 * number\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(double, [1, 2]))",
    )
    # THEN
    assert (ended.returncode, ended.stdout) == (0, "[2, 4]\n"), ended.stderr


def test_files_of_the_script_do_not_stand_in_for_modules_of_the_rank(job: RankJob) -> None:
    """A script's folder may hold a `signal.py` or `queue.py`."""
    # GIVEN
    for name in ("signal", "ctypes", "runpy", "faulthandler", "horovod_node"):
        (job.code / f"{name}.py").write_text("raise RuntimeError('the wrong one')")
    # WHEN
    ended = run(job, "print('trained')")
    # THEN
    assert (ended.returncode, ended.stdout) == (0, "trained\n"), ended.stderr


def test_exception_is_reported_from_the_scripts_first_frame(job: RankJob) -> None:
    """The traceback shows the user's frames and what they called, not the agent's."""
    # WHEN
    ended = run(job, "import json\ndef load(): return json.loads('no json')\nload()")
    # THEN
    failure = ScriptFailure.read(job.failure)
    assert failure is not None
    assert ended.returncode == failure.exit_code == 1
    assert failure.origin == ORIGIN_SCRIPT
    assert failure.summary == "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    lines = failure.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{job.script}", line 3, in <module>'
    assert "horovod_node" not in failure.traceback
    assert "runpy" not in failure.traceback
    assert failure.traceback in ended.stderr


def test_syntax_error_is_reported_like_any_other(job: RankJob) -> None:
    """A script that Python cannot read has no frames, but a line."""
    # WHEN
    ended = run(job, "for\n")
    # THEN
    failure = ScriptFailure.read(job.failure)
    assert failure is not None
    assert ended.returncode == 1
    assert failure.summary == "SyntaxError: invalid syntax (train.py, line 1)"
    assert f'File "{job.script}", line 1' in failure.traceback
    assert "runpy" not in failure.traceback


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        ("the first line\nthe second", "the first line"),
        ("Graph execution error:\n\nDetected at node a:\n  File\nNo pixels.\n\t [[{{node a}}]]", "No pixels."),
    ],
    ids=["python", "tensorflow"],
)
def test_long_exception_is_summed_up(job: RankJob, message: str, summary: str) -> None:
    """The summary is the line that says the most; the traceback has the rest, and the notes."""
    # WHEN
    run(job, f"error = ValueError({message!r})\nerror.add_note('a note')\nraise error")
    # THEN
    failure = ScriptFailure.read(job.failure)
    assert failure is not None
    assert failure.summary == f"ValueError: {summary}"
    assert failure.traceback.endswith(f"ValueError: {message}\na note")


@pytest.mark.parametrize(
    ("end", "code", "printed"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(5)", 5, ""),
        ("sys.exit('no data')", 1, "no data\n"),
    ],
)
def test_exit_code_is_the_scripts(job: RankJob, end: str, code: int, printed: str) -> None:
    """`sys.exit` means what it means in any script."""
    # WHEN
    ended = run(job, f"import sys\n{end}")
    # THEN
    failure = ScriptFailure.read(job.failure)
    assert (ended.returncode, ended.stderr) == (code, printed)
    assert (failure.exit_code if failure else 0) == code


@pytest.mark.parametrize(
    ("script", "summary"),
    [
        ("import os\nraise ValueError(os.fsdecode(b'no caf\\xe9.jpg'))", "ValueError: no caf\\udce9.jpg"),
        (
            "class Odd(Exception):\n    def __str__(self): raise RuntimeError\nraise Odd",
            "Odd: <exception str() failed>",
        ),
    ],
    ids=["unencodable", "unprintable"],
)
def test_exception_that_cannot_be_printed_is_told(job: RankJob, script: str, summary: str) -> None:
    """As Python's own traceback on standard error has it."""
    # WHEN
    ended = run(job, script)
    # THEN
    failure = ScriptFailure.read(job.failure)
    assert failure is not None
    assert failure.summary == summary
    assert failure.traceback.splitlines()[-1] == summary
    assert failure.traceback in ended.stderr
    # AND every file and the ledger take it
    assert failure.traceback.encode()


def test_rank_that_cannot_write_its_report_still_prints_it(job: RankJob) -> None:
    """A disk may be full, or the script may have removed the folder: the last lines hold the reason."""
    # WHEN
    ended = run(job, f"import shutil\nshutil.rmtree({str(job.reports)!r})\nraise ValueError('no label')")
    # THEN
    assert ended.returncode == 1
    assert ended.stderr.endswith("ValueError: no label\n")
    assert "horovod_node" not in ended.stderr


@pytest.mark.parametrize(
    "error",
    [
        "horovod.common.exceptions.HorovodInternalError('anything')",
        "RuntimeError('[/src/gloo/transport/tcp/pair.cc:589] Read error [10.0.0.2]:1: Connection reset by peer')",
        "RuntimeError('Horovod has been shut down. This was caused by an exception on one of the ranks')",
    ],
)
def test_loss_of_the_ring_is_told_apart(job: RankJob, error: str) -> None:
    """A rank that lost the others did not fail by itself."""
    # WHEN
    run(job, f"import horovod.common.exceptions\nraise {error}")
    # THEN
    failure = ScriptFailure.read(job.failure)
    assert failure is not None
    assert failure.origin == ORIGIN_RING


@pytest.mark.parametrize(
    "error",
    [
        "ConnectionResetError('Connection reset by peer')",
        "ValueError('{{node HorovodAllreduce}} Mismatched allreduce tensor shapes: [2] and [3]')",
    ],
)
def test_mistake_of_the_scripts_own_is_no_loss_of_the_ring(job: RankJob, error: str) -> None:
    """A script may lose a connection that is not the ring's, and may give Horovod what it cannot reduce."""
    # WHEN
    run(job, f"raise {error}")
    # THEN
    failure = ScriptFailure.read(job.failure)
    assert failure is not None
    assert failure.origin == ORIGIN_SCRIPT


def test_reported_steps_reach_the_agent(job: RankJob) -> None:
    """The last report is there when the script has ended; saying the same step again is no advance."""
    # WHEN
    run(job, "from horovod_node import steps\nfor step in (1, 2, 2, 2, 7): steps.report(step)")
    # THEN
    assert Progress.read(job.progress) == Progress(step=7, advances=3)


def test_report_outside_of_a_rank_does_nothing() -> None:
    """The same script runs on a laptop."""
    # GIVEN
    from horovod_node import steps

    # WHEN / THEN
    steps.report(1)


def test_rank_without_its_agent_does_not_start(job: RankJob) -> None:
    """An agent that died while its rank started leaves no rank behind."""
    # GIVEN a parent that is not the agent
    orphan = RankJob(**{**vars(job), "agent": 0})
    # WHEN
    ended = run(orphan, "print('trained')")
    # THEN
    assert (ended.returncode, ended.stdout) == (contract.EXIT_RELEASED, "")


@pytest.mark.parametrize("name", ["my train.py", "größe (2)..v2.py", "-m.py"])
def test_script_may_have_any_name(job: RankJob, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A name that a disk takes is one of a script, also for the processes that it spawns, and in the C locale."""
    # GIVEN
    monkeypatch.setenv("LC_ALL", "C")
    named = RankJob(**{**vars(job), "entry_point": name})
    # WHEN
    ended = run(
        named,
        "import multiprocessing, os, sys\n"
        "def child(): print(os.path.basename(sys.argv[0]), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=child)\n"
        "    process.start(); process.join(); sys.exit(process.exitcode)\n",
    )
    # THEN
    assert (ended.returncode, ended.stdout) == (0, f"{name}\n"), ended.stderr
