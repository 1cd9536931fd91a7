"""A rank's report of the exception that ended its script."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from horovod_node.rank_process.preflight import PreflightError

ORIGIN_PREFLIGHT: Final = "preflight"
ORIGIN_SCRIPT: Final = "script"
ORIGIN_RING: Final = "ring"
"""The rank lost the other ranks; the cause of the failure is theirs."""

_RING_EXCEPTIONS = ("HorovodInternalError",)
_RING_WORDS = (
    "Horovod has been shut down",
    "gloo/transport/",
    "gloo::IoException",
    "Gloo connectFullMesh failed",
    "ncclSystemError",
    "ncclRemoteError",
    "remote process exited or there was a network error",
)
"""
Messages of Horovod 0.28.1, Gloo and NCCL about the loss of another rank, inside exceptions of TensorFlow's types.

The name of the failing operation does not tell: `HorovodAllreduce` also refuses tensors of different shapes, which is a
mistake of the script.
"""

_GRAPH_ERROR = "Graph execution error:"


@dataclass(frozen=True, kw_only=True)
class ScriptFailure:
    """
    The exception that ended a script.

    Args:
        origin: One of `ORIGIN_*`.
        summary: The exception's type and the most informative line of its message.
        traceback: The traceback, from the script's first frame on.
        exit_code: Exit code of the process.
        at: Epoch seconds.
        silent: Whether the exception has no message: `SystemExit` with a number. The reason is then in the script's
            last output, as with `argparse`.
    """

    origin: str
    summary: str
    traceback: str
    exit_code: int
    at: float
    silent: bool = False

    def write(self, file: Path) -> None:
        """
        Replace *file* atomically.

        Raises:
            OSError: For example, if the disk is full.
        """
        half = file.with_suffix(".half")
        half.write_text(json.dumps(asdict(self)))
        half.replace(file)

    @classmethod
    def read(cls, file: Path) -> ScriptFailure | None:
        """Read the rank's report; `None` if there is none."""
        try:
            text = file.read_text()
        except FileNotFoundError:
            return None
        return cls(**json.loads(text))


def describe(error: BaseException, *, code: Path, exit_code: int) -> ScriptFailure:
    """
    Describe *error*.

    Args:
        error: The exception that the script raised.
        code: Folder of the script. Frames before the first one in this folder are the agent's, and are left out.
        exit_code: Exit code of the process.
    """
    lines = traceback.format_exception(type(error), error, _scripts_frames(error.__traceback__, code))
    return ScriptFailure(
        origin=_origin(error),
        summary=encodable(_summary(error)),
        traceback=encodable("".join(lines).rstrip()),
        exit_code=exit_code,
        at=time.time(),
        silent=isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)),
    )


def encodable(text: str) -> str:
    """
    Escape halves of surrogate pairs as Python does on standard error, such as `\\udce9`.

    `os.fsdecode` produces them for names that are not UTF-8. They cannot be written to files or to the ledger.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def lost_the_ring(words: str) -> bool:
    """Whether *words*, a message or a rank's last lines, show that the rank lost the other ranks."""
    return any(phrase in words for phrase in _RING_WORDS)


def _summary(error: BaseException) -> str:
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    words = [line for line in _words(error).splitlines() if line.strip() and not line[0].isspace()]
    if not words:
        return name
    # TensorFlow's message begins with where the failing operation was defined; the error itself comes last.
    return f"{name}: {words[-1] if words[0] == _GRAPH_ERROR else words[0]}"


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        # As the traceback module prints it.
        return "<exception str() failed>"


def _origin(error: BaseException) -> str:
    if isinstance(error, PreflightError):
        return ORIGIN_PREFLIGHT
    if type(error).__name__ in _RING_EXCEPTIONS or lost_the_ring(_words(error)):
        return ORIGIN_RING
    return ORIGIN_SCRIPT


def _scripts_frames(frames: TracebackType | None, code: Path) -> TracebackType | None:
    while frames is not None and not Path(frames.tb_frame.f_code.co_filename).is_relative_to(code):
        frames = frames.tb_next
    return frames
