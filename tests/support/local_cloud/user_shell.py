"""A user's shell that works with `cdk-horovod local`: with or without a terminal, inside the cloud or outside."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect

from horovod_client import Run, TrainingClient
from horovod_local import background
from horovod_local.background import BackgroundCloud
from support.synthesis import REPOSITORY
from support.waiting import SECONDS

TOOL = [sys.executable, "-m", "horovod_client"]
ROWS, COLUMNS = 30, 100
DIGITS = REPOSITORY / "examples" / "digits"


@dataclass(frozen=True, kw_only=True)
class Shell:
    """
    A user's shell, in a folder without an assembly and with a state folder of its own.

    Args:
        folder: Where it is, and where the state is.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.folder), "TERM": "xterm-256color"}

    @property
    def cloud(self) -> BackgroundCloud | None:
        """The cloud that runs for this shell."""
        return background.find(self.folder / "cdk-horovod" / "local")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the tool without a terminal."""
        return subprocess.Popen(
            [*TOOL, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run the tool without a terminal; give its exit code and what it printed."""
        process = self.start(*arguments)
        printed, _ = process.communicate(timeout=SECONDS)
        return process.returncode, printed

    def run_in_cloud(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a command in a shell that was led into the cloud; give its exit code and what it printed."""
        line = f'eval "$({shlex.join(TOOL)} local env)" && {shlex.join(command)}'
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        return done.returncode, done.stdout

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Run the tool for its JSON document."""
        code, printed = self.run(*arguments, "--json")
        assert code == 0, printed
        found: dict[str, Any] = json.loads(printed)
        return found

    def terminal(self, *arguments: str) -> pexpect.spawn[str]:
        """Run the tool in a terminal."""
        return self._spawn([*TOOL, *arguments])

    def terminal_in_cloud(self, *arguments: str) -> pexpect.spawn[str]:
        """Run the tool in a terminal whose shell was led into the cloud."""
        line = f'eval "$({shlex.join(TOOL)} local env)" && exec {shlex.join([*TOOL, *arguments])}'
        return self._spawn(["bash", "-c", line])

    def _spawn(self, command: Sequence[str]) -> pexpect.spawn[str]:
        return pexpect.spawn(
            command[0],
            [*command[1:]],
            cwd=str(self.folder),
            env=self.environment,
            dimensions=(ROWS, COLUMNS),
            encoding="utf-8",
            timeout=SECONDS,
        )

    def find(self, name: str) -> Run:
        """Find a run as a notebook does that was told of the cloud."""
        cloud = self.cloud
        assert cloud is not None
        services = (
            "cloudformation",
            "stepfunctions",
            "s3",
            "dynamodb",
            "logs",
            "autoscaling",
            "ec2",
        )
        clients = {service: cloud.client(service) for service in services}
        return Run.from_id(name, client=TrainingClient.from_stack("Training", **clients))
