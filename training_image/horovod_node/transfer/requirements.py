"""
Installs the script's `requirements.txt` once per node, into a virtual environment of this run.

SageMaker's training toolkit runs pip with this file in the unpacked source folder, and installs into the image's own
Python (aws/sagemaker-training-toolkit, `modules.py`). Here that Python belongs to another user, and in the local cloud
several runs share it. So a node creates a virtual environment, whose packages take precedence over the image's:

- A requirement that the image already satisfies is not installed again.
- A different version shadows the image's. pip uninstalls nothing outside of the environment in which it runs.
- Programs, `.pth` files and namespace packages work, because Python itself reads the environment at its start.

Horovod is compiled for the TensorFlow or PyTorch of its image, and crashes with any other. Constraints pin these
versions. They are also required by name, so that pip's resolver respects their dependencies (NumPy, Keras, protobuf):
otherwise it installs versions that break them, and only warns (pip, "Dependency Resolution").
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from horovod_node import contract
from horovod_node.node.errors import ReleasedError
from horovod_node.node.failure import Failure, NodeFailedError
from horovod_node.node.folders import Layout
from horovod_node.node.identity import Node
from horovod_node.node.rank_output import read_lines

_log = logging.getLogger(__name__)

_TENSORFLOW: Final = ("tensorflow", "tensorflow-cpu", "tensorflow-gpu")
"""Distributions that provide the package `tensorflow`; an image has one of them, and any other would shadow it."""
_QUIETLY: Final = ("--no-input", "--disable-pip-version-check", "--progress-bar=off")
_TAIL_LINES: Final = 100
_WORDS_WITHOUT_ERROR: Final = 20
"""How many of pip's last lines are quoted if none of them is marked as an error."""
_UNREACHABLE: Final = re.compile(
    r"connection error:|error: connection-failed|Max retries exceeded|Retry\(total=0,|Read timed out"
)
"""Lines in the log of pip 23 to 26 after which an index or a file could not be reached, in spite of retries."""
_CONFLICT: Final = "ResolutionImpossible"
"""The error of pip's resolver for requirements that cannot be satisfied together."""
_CONSTRAINT: Final = "(constraint)"
"""pip's mark for a pinned version in its description of a conflict."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """
    When pip installed a script's requirements on this node.

    Args:
        began_at: Epoch seconds.
        ended_at: Epoch seconds.
    """

    began_at: float
    ended_at: float


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """How pip failed: its exit code, its last lines, and whether it could not reach an index or a file."""

    exit_code: int
    words: str
    unreachable: bool

    @property
    def is_conflict(self) -> bool:
        return _CONFLICT in self.words

    @property
    def is_certain(self) -> bool:
        """Whether the conflict is with a pinned version, so that no other wheel of an index could help."""
        return self.is_conflict and _CONSTRAINT in self.words


class Requirements:
    """
    Installs the requirements of a run's script on one node.

    Args:
        node: The node, for error messages.
        layout: The node's folders; the environment is created in one of them.
    """

    def __init__(self, node: Node, *, layout: Layout) -> None:
        self._node = node
        self._layout = layout
        self._kept = compiled_packages()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def install(self) -> Installation | None:
        """
        Install the packages of `requirements.txt` at the top of the source folder, if there is one.

        If there is a folder `wheels` beside it, pip first uses only that folder. It also uses the index if those wheels
        do not suffice: without a route to an index, pip would wait for minutes.

        Returns:
            When the packages were installed; `None` if there is no `requirements.txt`.

        Raises:
            NodeFailedError: If pip failed. The run then ends, unless pip only could not reach its index.
            ReleasedError: If `stop` was called.
        """
        code = self._layout.code
        if not (code / contract.REQUIREMENTS_FILE).is_file():
            return None
        began = time.time()
        self._make_environment()
        wheels = ("--find-links", contract.WHEELS_FOLDER) if (code / contract.WHEELS_FOLDER).is_dir() else ()
        refusal = self._pip("--no-index", *wheels) if wheels else self._pip()
        if wheels and refusal is not None and not refusal.is_certain:
            _log.info("the wheels in '%s' do not suffice; asking the package index, too", contract.WHEELS_FOLDER)
            refusal = self._pip(*wheels)
        if refusal is not None:
            raise NodeFailedError(self._failure(refusal))
        installation = Installation(began_at=began, ended_at=time.time())
        _log.info("installed %s in %.1f s", contract.REQUIREMENTS_FILE, installation.ended_at - began)
        return installation

    def stop(self) -> None:
        """Kill pip and its child processes, and refuse to start it again."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _make_environment(self) -> None:
        folder = self._layout.environment
        shutil.rmtree(folder, ignore_errors=True)
        venv.EnvBuilder(symlinks=True).create(folder)
        packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))
        # addsitedir, unlike a plain path, also reads the image's own .pth files.
        own = [*([site.getusersitepackages()] if site.ENABLE_USER_SITE else []), *site.getsitepackages()]
        (packages / "_image.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in own))
        aliases = _aliases(self._kept)
        for alias, version in aliases.items():
            info = packages / f"{alias.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {alias}\nVersion: {version}\n")
            (info / "RECORD").touch()
        # pip reads the pip.conf of the environment in which it runs: copy the image's.
        with suppress(FileNotFoundError):
            shutil.copy(Path(sys.prefix) / "pip.conf", folder)
        pins = {**self._kept, **aliases}
        self._constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))

    @property
    def _constraints(self) -> Path:
        return self._layout.environment / "constraints.txt"

    def _pip(self, *sources: str) -> _Refusal | None:
        """Run pip once, with its output in the agent's log; return `None` if it succeeded."""
        log = self._layout.environment / "pip.log"
        log.unlink(missing_ok=True)
        # -P: no file of the script's folder may shadow a module that pip needs.
        pip = (rank_python(self._layout), "-P", "-m", "pip", "install", *_QUIETLY, f"--log={log}")
        constraint = f"--constraint={self._constraints}"
        process = self._start([*pip, *sources, constraint, f"--requirement={contract.REQUIREMENTS_FILE}", *self._kept])
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        assert process.stdout is not None
        with process.stdout:
            for line in read_lines(process.stdout):
                text = line.rstrip()
                tail.append(text)
                _log.info("pip: %s", text)
        exit_code = process.wait()
        if self._stopped:
            raise ReleasedError("the agent ends")
        if exit_code == 0:
            return None
        told = log.read_text(errors="replace") if log.is_file() else ""
        words = _last_words(list(tail))
        return _Refusal(
            exit_code=exit_code,
            words=words,
            # A conflict is the script's fault even if an index could not be reached.
            unreachable=_CONFLICT not in words and _UNREACHABLE.search(told) is not None,
        )

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise ReleasedError("the agent ends")
            self._process = subprocess.Popen(
                command,
                # The same environment variables as the ranks have.
                env={**os.environ, **rank_variables(self._layout, os.environ)},
                cwd=self._layout.code,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            return self._process

    def _failure(self, refusal: _Refusal) -> Failure:
        node, code = self._node, refusal.exit_code
        ended = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        summary = (
            f"{contract.REQUIREMENTS_FILE} could not be installed on node {node.id} ({node.address}): pip {ended}."
        )
        if refusal.is_conflict and _is_with_the_image(refusal.words):
            kept = " and ".join(f"{name} {version}" for name, version in self._kept.items())
            summary += f" The image's {kept} and what they depend on must stay, because Horovod is compiled for them."
        elif refusal.unreachable:
            summary += (
                " It could not reach the package index. If the network has no route to one, put the wheels of all "
                f"requirements and of their dependencies into a folder '{contract.WHEELS_FOLDER}' beside "
                f"{contract.REQUIREMENTS_FILE}."
            )
        return Failure(
            error=contract.ERROR_NODE_FAILED if refusal.unreachable else contract.ERROR_REQUIREMENTS,
            origin="node",
            summary=summary,
            details=f"pip's last words:\n{refusal.words}",
            node=node.id,
            at=time.time(),
        )


def compiled_packages() -> dict[str, str]:
    """Return the versions of Horovod and of the frameworks that it is compiled for, as far as this Python has them."""
    versions = {name: _version(name) for name in ("horovod", *_TENSORFLOW, "torch")}
    return {name: version for name, version in versions.items() if version is not None}


def _aliases(kept: Mapping[str, str]) -> dict[str, str]:
    """
    Return the other distribution names of the image's TensorFlow, with its version.

    They are recorded as distributions without files, so that they satisfy a requirement of that name. Otherwise pip
    would install a second TensorFlow that shadows the image's, perhaps one without GPU support.
    """
    version = next((kept[name] for name in _TENSORFLOW if name in kept), None)
    return {} if version is None else {name: version for name in _TENSORFLOW if name not in kept}


def rank_python(layout: Layout) -> str:
    """Return the Python that runs ranks: that of the run's environment if it has one, else the agent's own."""
    python = layout.environment / "bin" / "python"
    return str(python) if python.exists() else sys.executable


def rank_variables(layout: Layout, environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables with which a rank's child processes find the run's environment; empty if it has none."""
    programs = str(layout.environment / "bin")
    if not Path(programs, "python").exists():
        return {}
    return {
        "VIRTUAL_ENV": str(layout.environment),
        "PATH": os.pathsep.join(filter(None, (programs, environment.get("PATH")))),
    }


def _is_with_the_image(conflict: str) -> bool:
    """Whether a conflict, as pip describes it, involves a package of the image and not the requirements alone."""
    dependents = re.findall(r"^\s+(\S+) (\S+) depends on ", conflict, flags=re.MULTILINE)
    return _CONSTRAINT in conflict or any(_version(name) == version for name, version in dependents)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _last_words(lines: Sequence[str]) -> str:
    """Return pip's lines from its first error on; if no line is marked as an error, its last lines."""
    errors = (number for number, line in enumerate(lines) if line.lstrip().lower().startswith("error:"))
    return "\n".join(lines[next(errors, -_WORDS_WITHOUT_ERROR) :]).strip()
