"""
A local cloud in the background, for a user's shell: one for each folder, which holds its state.

A keeper process without a terminal holds the cloud as an ordinary `LocalCloud`. Server and nodes therefore end with the
keeper, however it ends, and when the server dies the keeper ends the nodes. The keeper holds a file lock for as long as
it lives, which the kernel releases with the process. A process id alone would not tell whether a cloud runs, because
another process may have got the same id.
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

from horovod_local.cloud import DEFAULT_REGION, START_SECONDS, STOP_SECONDS, LocalCloud, call_control_api, client
from horovod_local.errors import LocalCloudError
from horovod_local.instances.processes import CLOUD_VARIABLE, cloud_environment, kill_processes_with, without_aws
from horovod_local.server import DEFAULT_ACCOUNT, HOST
from horovod_local.shared.access_keys import read_key

STATE: Final = "cloud.json"
LOG: Final = "keeper.log"
_ALIVE: Final = "alive.lock"
_CHANGE: Final = "change.lock"


class OtherVersionError(LocalCloudError):
    """The running cloud was started by another version of this package: it can only be stopped."""


@dataclass(frozen=True, kw_only=True)
class BackgroundCloud:
    """
    A local cloud that runs in the background.

    Args:
        endpoint: URL of its server.
        region: Default Region of clients.
        account: Its only account.
        pid: Process id of its keeper.
        started_at: When it was started, in epoch seconds.
        home: Folder with the administrator's access key, the server's log and the instances' files.
        node_python: Python interpreter of its nodes.
        without_opt_ml: Why its nodes have no private `/opt/ml`; '' if they have one.
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

    def call_control_api(self, method: str, path: str) -> Any:
        """Send a request to the cloud's control API, which AWS does not have, and return the answer."""
        return call_control_api(self.endpoint, method, path, access_key=read_key(Path(self.home)))

    def environment(self) -> dict[str, str]:
        """Return the environment variables that point the AWS SDKs at this cloud."""
        return {
            **cloud_environment(self.endpoint, access_key=read_key(Path(self.home))),
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }


def default_folder() -> Path:
    """Return the folder of the user's cloud, below the XDG state directory (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "cdk-horovod" / "local"


@contextlib.contextmanager
def change_lock(folder: Path) -> Iterator[None]:
    """Hold the lock under which the cloud of *folder* is started, stopped or deployed into; waits for the lock."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / _CHANGE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find(folder: Path) -> BackgroundCloud | None:
    """
    Return the cloud that runs for *folder*; None if none does.

    Raises:
        OtherVersionError: If the running cloud's state was written by another version.
    """
    return _read_state(folder) if _is_running(folder) else None


def start(folder: Path, *, region: str = DEFAULT_REGION, node_python: str = sys.executable) -> BackgroundCloud:
    """
    Start the cloud of *folder*, or return the one that already runs. The caller must hold `change_lock`.

    Args:
        folder: Folder of its state.
        region: Default Region of clients.
        node_python: Python interpreter of its nodes. Default: this one.

    Raises:
        LocalCloudError: If it does not start, with the path of its log; or if a cloud of another version runs.
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
            # Neither the user's folder nor the terminal: the keeper must outlive both.
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
    # Keeps `Popen` from warning that the process still runs: the keeper is meant to outlive this one.
    keeper.returncode = 0
    return found


def stop(folder: Path) -> bool:
    """
    Stop the cloud of *folder*, of any version, and remove what it left, even after a crash.

    The caller must hold `change_lock`.

    Returns:
        Whether a cloud was running.
    """
    keeper: int = _state_json(folder).get("pid", 0)
    runs = bool(keeper) and _is_running(folder)
    if runs:
        # The lock is held, so the process id is still the keeper's.
        os.kill(keeper, signal.SIGTERM)
        until = time.monotonic() + 2 * STOP_SECONDS
        while _is_running(folder):
            if time.monotonic() > until:
                os.kill(keeper, signal.SIGKILL)
            time.sleep(0.05)
    _clear(folder)
    return runs


def keep(folder: Path, *, region: str, node_python: str) -> None:
    """
    Run a local cloud in this process until it gets a signal to end or the cloud's server dies.

    Args:
        folder: Folder of the cloud's state.
        region: Default Region of clients.
        node_python: Python interpreter of the nodes.

    Raises:
        LocalCloudError: If another keeper runs for *folder*, or the server does not start or dies.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    state = folder / STATE
    with (folder / _ALIVE).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LocalCloudError(f"a local cloud already runs for {folder}") from error
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
            while not stopping.wait(0.2):
                if not cloud.is_alive():
                    raise LocalCloudError(f"the server of the local cloud died (see {cloud.log})")
        state.unlink(missing_ok=True)


def _is_running(folder: Path) -> bool:
    """Whether a keeper runs: only a keeper holds the lock exclusively."""
    try:
        lock = (folder / _ALIVE).open("rb")
    except FileNotFoundError:
        return False
    with lock:
        try:
            # A shared lock, so that two concurrent checks do not mistake each other for the keeper.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _read_state(folder: Path) -> BackgroundCloud | None:
    facts = _state_json(folder)
    if not facts:
        return None
    try:
        cloud = BackgroundCloud(**facts)
        # A version that wrote no access key answered every request.
        read_key(Path(cloud.home))
    except (TypeError, OSError):
        raise OtherVersionError(
            "a local cloud of another version of cdk-horovod is running: stop it with cdk-horovod local down"
        ) from None
    return cloud


def _state_json(folder: Path) -> dict[str, Any]:
    """Read the state file of a cloud of any version; empty if there is none, or if the cloud is still starting."""
    try:
        facts: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts


def _clear(folder: Path) -> None:
    """Remove what a cloud that no longer runs has left: files, and nodes if keeper and server were both killed."""
    endpoint = _state_json(folder).get("endpoint", "")
    if endpoint and _stops_listening(endpoint):
        kill_processes_with(CLOUD_VARIABLE, endpoint)
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder / "cloud", ignore_errors=True)


def _stops_listening(endpoint: str) -> bool:
    """Whether nothing listens at *endpoint* any more; waits for a server whose keeper was killed to end."""
    port = int(endpoint.rpartition(":")[2])
    until = time.monotonic() + STOP_SECONDS
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)):
                return True
        time.sleep(0.1)
    # Another cloud has got the port, so the processes with this endpoint are its nodes.
    return False
