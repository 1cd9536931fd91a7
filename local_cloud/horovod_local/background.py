"""
A local cloud in the background, for a user's shell: one for each folder, found again by what it leaves there.

A keeper holds it: a process without a terminal, in which the cloud is an ordinary `LocalCloud`. So server and nodes
end with the keeper, however it ends, and when the server dies the keeper takes the nodes away. The keeper locks a file
for as long as it lives, and the kernel ends the lock with it: whether a cloud runs is not guessed from a process
number, which another process may have by then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from horovod_local.cloud import DEFAULT_REGION, START_SECONDS, STOP_SECONDS, LocalCloud, ask, client
from horovod_local.errors import LocalCloudError
from horovod_local.instances.processes import CLOUD_VARIABLE, fake_credentials, kill_processes_with, without_aws
from horovod_local.server import DEFAULT_ACCOUNT, HOST
from horovod_local.shared.access_keys import read_key

STATE: Final = "cloud.json"
LOG: Final = "keeper.log"
_ALIVE: Final = "alive.lock"
_CHANGE: Final = "change.lock"


class OtherVersionError(LocalCloudError):
    """A cloud runs that another version started: it can be ended, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class BackgroundCloud:
    """
    A local cloud that runs in the background.

    Args:
        endpoint: Its address.
        region: Of what works in it.
        account: The one account that it has.
        pid: Of its keeper.
        started_at: Epoch seconds.
        home: Folder with the administrator's access key, the server's log and the instances' files.
        node_python: Interpreter of its nodes.
        without_opt_ml: Why its nodes have no `/opt/ml` of their own; '' if they have.
    """

    endpoint: str
    region: str
    account: str
    pid: int
    started_at: float
    home: str
    node_python: str
    without_opt_ml: str

    def client(self, service: str, *, region: str | None = None) -> Any:
        """Make a boto3 client of *service* that talks to this cloud and to nothing else."""
        return client(
            service, endpoint=self.endpoint, region=region or self.region, access_key=read_key(Path(self.home))
        )

    def ask(self, method: str, path: str) -> Any:
        """Send the cloud a request that AWS does not have, and return its answer."""
        return ask(self.endpoint, method, path, access_key=read_key(Path(self.home)))

    def environment(self) -> dict[str, str]:
        """Give the variables that lead the AWS SDKs into this cloud."""
        return {
            **fake_credentials(self.endpoint, access_key=read_key(Path(self.home))),
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }


def default_folder() -> Path:
    """Name the folder of the user's own cloud, by the rules of freedesktop.org for what a program leaves behind."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "cdk-horovod" / "local"


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Be the only one that starts, deploys into or stops the cloud of *folder*; wait for the one that does."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / _CHANGE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find(folder: Path) -> BackgroundCloud | None:
    """
    Find the cloud that runs for *folder*, if one does.

    Raises:
        OtherVersionError: If one does, and what it left can be read by another version only.
    """
    return _read_state(folder) if _is_kept(folder) else None


def start(folder: Path, *, region: str = DEFAULT_REGION, node_python: str = sys.executable) -> BackgroundCloud:
    """
    Start the cloud of *folder*, or find the one that runs; call it within `changing`.

    Args:
        folder: Where its state is.
        region: Of what works in it.
        node_python: Interpreter of its nodes. Default: this one.

    Raises:
        LocalCloudError: If it does not start; says where its log is. Or if another version's runs.
    """
    found = find(folder)
    if found is not None:
        return found
    _clear(folder)
    log = folder / LOG
    command = [sys.executable, "-m", "horovod_local", "keep", str(folder.absolute())]
    command += ["--region", region, "--node-python", node_python]
    with log.open("wb") as output:
        keeper = subprocess.Popen(
            command,
            # In no folder of the user's, and no terminal's: it lives on when both are gone.
            cwd=folder,
            env=without_aws(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + START_SECONDS
    while (found := find(folder)) is None:
        if keeper.poll() is not None or time.monotonic() > until:
            keeper.terminate()
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise LocalCloudError(f"the local cloud did not start: {''.join(last) or 'no answer'} (see {log})")
        time.sleep(0.05)
    # It outlives this process, which need not wait for it.
    keeper.returncode = 0
    return found


def stop(folder: Path) -> bool:
    """
    End the cloud of *folder*, of any version, with every node, also what a killed one left; call it within `changing`.

    Returns:
        Whether one was running.
    """
    keeper: int = _facts(folder).get("pid", 0)
    runs = bool(keeper) and _is_kept(folder)
    if runs:
        # Its lock is held, so the number is the keeper's own.
        os.kill(keeper, signal.SIGTERM)
        until = time.monotonic() + 2 * STOP_SECONDS
        while _is_kept(folder):
            if time.monotonic() > until:
                os.kill(keeper, signal.SIGKILL)
            time.sleep(0.05)
    _clear(folder)
    return runs


def keep(folder: Path, *, region: str, node_python: str) -> None:
    """
    Hold a local cloud until this process is asked to end, or the cloud's server dies.

    Args:
        folder: Where its state is.
        region: Of what works in it.
        node_python: Interpreter of its nodes.

    Raises:
        LocalCloudError: If another keeper holds the folder's cloud, or the server does not start or dies.
    """
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    state = folder / STATE
    with (folder / _ALIVE).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LocalCloudError(f"a local cloud runs for {folder} already") from error
        home = folder / "cloud"
        with LocalCloud(home=home, region=region, node_python=node_python) as cloud:
            kept = BackgroundCloud(
                endpoint=cloud.endpoint,
                region=region,
                account=DEFAULT_ACCOUNT,
                pid=os.getpid(),
                started_at=time.time(),
                home=str(home),
                node_python=node_python,
                without_opt_ml=cloud.without_opt_ml(),
            )
            partial = state.with_suffix(".partial")
            partial.write_text(json.dumps(asdict(kept)), encoding="utf-8")
            partial.replace(state)
            while not asked.wait(0.2):
                if not cloud.is_alive():
                    raise LocalCloudError(f"the server of the local cloud died (see {cloud.log})")
        state.unlink(missing_ok=True)


def _is_kept(folder: Path) -> bool:
    """Whether a keeper lives: nobody else has its lock for longer than a look takes."""
    try:
        lock = (folder / _ALIVE).open("rb")
    except FileNotFoundError:
        return False
    with lock:
        try:
            # Shared, so that two who look do not take each other for the keeper.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _read_state(folder: Path) -> BackgroundCloud | None:
    facts = _facts(folder)
    if not facts:
        return None
    try:
        cloud = BackgroundCloud(**facts)
        # One without a key would answer everybody.
        read_key(Path(cloud.home))
    except (TypeError, OSError):
        raise OtherVersionError(
            "a local cloud of another version of cdk-horovod is running: end it with cdk-horovod local down"
        ) from None
    return cloud


def _facts(folder: Path) -> dict[str, Any]:
    """Read what a cloud of any version left; nothing if there is none, or it has not come so far."""
    try:
        facts: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts


def _clear(folder: Path) -> None:
    """Take away what a cloud has left that no longer runs: files, and nodes if keeper and server died at once."""
    endpoint = _facts(folder).get("endpoint", "")
    if endpoint and _falls_silent(endpoint):
        kill_processes_with(CLOUD_VARIABLE, endpoint)
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder / "cloud", ignore_errors=True)


def _falls_silent(endpoint: str) -> bool:
    """Whether nobody listens there any more; a server whose keeper was killed is given the time to end."""
    port = int(endpoint.rpartition(":")[2])
    until = time.monotonic() + STOP_SECONDS
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)):
                return True
        time.sleep(0.1)
    # Another cloud has the port by now, and its nodes the same address.
    return False
