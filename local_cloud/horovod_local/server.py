"""The server: moto with its corrections on loopback, the instances, and the local cloud's control API."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from horovod_local import corrections
from horovod_local.authentication import Authentication
from horovod_local.deployment.schedules import Schedules
from horovod_local.errors import LocalCloudError
from horovod_local.instances import opt_ml
from horovod_local.instances.addresses import Addresses
from horovod_local.instances.instance_driver import InstanceDriver
from horovod_local.instances.machine import CONTROL_PATH, METADATA_PATH, TASK_PATH
from horovod_local.permissions.authorization import Authorization
from horovod_local.permissions.principals import PRINCIPALS
from horovod_local.permissions.record import RECORD
from horovod_local.shared.access_keys import ACCESS_KEYS, KEY_FILE, write_key
from horovod_local.shared.api_faults import ApiFaults, Application, StartResponse
from horovod_local.shared.faults import ACTIVE_FAULTS, Faults
from horovod_local.shared.price_list import PriceList
from horovod_local.training_jobs.driver import TrainingJobDriver

HOST: Final = "127.0.0.1"
DEFAULT_ACCOUNT: Final = "123456789012"
ENDPOINT_FILE: Final = "endpoint"
"""File in the home folder that holds the server's URL once it answers."""

_log = logging.getLogger(__name__)


def serve(
    *,
    home: Path,
    port: int = 0,
    account: str = DEFAULT_ACCOUNT,
    node_python: str = sys.executable,
    schedule_speed: float = 1.0,
    stop_with_stdin: bool = False,
    tell: Callable[[str], None] = print,
) -> None:
    """
    Serve the local cloud until the process gets SIGTERM or SIGINT; no node outlives it.

    Args:
        home: Folder for the endpoint, the administrator's access key, the log and the instances' files; created.
        port: Port on loopback. Default: a free one.
        account: The cloud's only account.
        node_python: Python interpreter that runs the nodes. Default: this one.
        schedule_speed: Factor by which EventBridge schedules run faster than real time. Default: 1.
        stop_with_stdin: Whether to stop too when standard input closes, which it does when the parent process dies.
        tell: Called with each line of text for the user.

    Raises:
        LocalCloudError: If the port is taken, *node_python* is not a program, *schedule_speed* is not above 0, or
            another release of moto is installed.
    """
    if schedule_speed <= 0:
        raise LocalCloudError(f"'schedule_speed' must be more than 0, got {schedule_speed}")
    if shutil.which(node_python) is None:
        raise LocalCloudError(f"'node_python' must be a program, got {node_python}")
    try:
        # First, to fail fast; werkzeug would print three lines and exit if the port were taken.
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise LocalCloudError(
            f"cannot serve on port {port}: {error.strerror}; choose another port, or 0 for any free one"
        ) from error
    installed = corrections.apply()
    # Imported after the corrections on purpose: these modules must not bind what the corrections replace.
    from moto.core import config
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    home.mkdir(parents=True, exist_ok=True)
    config.default_user_config["stepfunctions"] = {"execute_state_machine": True}
    os.environ["MOTO_ACCOUNT_ID"] = account
    aws = PriceList(DomainDispatcherApplication(create_backend_app))
    checked = Authorization(aws, principals=PRINCIPALS, record=RECORD, account=account)
    without_opt_ml = opt_ml.unavailable_reason()
    control_api = _ControlApi(ApiFaults(checked, active=ACTIVE_FAULTS), account=account, without_opt_ml=without_opt_ml)
    application = Authentication(control_api, keys=ACCESS_KEYS, port=listening.getsockname()[1])
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    # This logger prints the whole definition of every failed state; the execution's history has the failure, too.
    logging.getLogger("moto.stepfunctions.parser.asl.component.eval_component").setLevel(logging.CRITICAL)
    port = listening.getsockname()[1]
    server = make_server(HOST, port, application, threaded=True, fd=listening.fileno())
    # It must be localhost: by this host name moto recognises a TemplateURL in one of its own buckets.
    endpoint = f"http://localhost:{port}"
    os.environ["MOTO_PORT"] = str(port)
    addresses = Addresses(endpoint)
    control_api.driver = InstanceDriver(
        home=home.absolute(),
        endpoint=endpoint,
        addresses=addresses,
        node_python=node_python,
        own_opt_ml=not without_opt_ml,
    )
    control_api.jobs = TrainingJobDriver(
        home=home.absolute(),
        endpoint=endpoint,
        addresses=addresses,
        node_python=node_python,
        without_opt_ml=without_opt_ml,
    )
    schedules = Schedules(speed=schedule_speed)
    _log.info("%d corrections to moto %s", len(installed), corrections.MOTO_VERSION)
    _stop_on_request(server, with_stdin=stop_with_stdin)
    control_api.driver.start()
    control_api.jobs.start()
    schedules.start()
    write_key(home, ACCESS_KEYS.administrator)
    _write_atomically(home / ENDPOINT_FILE, endpoint)
    tell(f"local cloud at {endpoint}")
    if without_opt_ml:
        tell(opt_ml.explanation(without_opt_ml))
    try:
        server.serve_forever()
    finally:
        schedules.stop()
        control_api.jobs.stop()
        control_api.driver.stop()
        listening.close()
        for name in (ENDPOINT_FILE, KEY_FILE):
            (home / name).unlink(missing_ok=True)


class _ControlApi:
    """WSGI middleware that answers requests to the control API and to instance metadata; passes on all others."""

    driver: InstanceDriver
    jobs: TrainingJobDriver

    def __init__(self, aws: Application, *, account: str, without_opt_ml: str) -> None:
        self._aws = aws
        self._account = account
        self._without_opt_ml = without_opt_ml

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", ""))
        if not path.startswith(CONTROL_PATH):
            return self._aws(environ, start_response)
        if path.startswith(METADATA_PATH):
            return self._answer_metadata(environ, start_response)
        if path.startswith(TASK_PATH):
            instance_id, _, rest = path.removeprefix(TASK_PATH).partition("/")
            code, answer = self.driver.answer_task(instance_id, rest)
            start_response(f"{code} {HTTPStatus(code).phrase}", [("Content-Type", "application/json")])
            return [json.dumps(answer).encode()]
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        try:
            status, answer = self._answer(environ["REQUEST_METHOD"], path.removeprefix(CONTROL_PATH), body)
        except (LocalCloudError, ValueError, TypeError) as error:
            status, answer = "400 Bad Request", {"error": str(error)}
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    def _answer(self, method: str, path: str, body: bytes) -> tuple[str, Any]:
        match method, path.split("/"):
            case "GET", ["instances"]:
                return "200 OK", self.driver.instances()
            case "DELETE", ["instances", instance_id]:
                return _found(self.driver.lose(instance_id), instance_id)
            case "POST", ["instances", instance_id, "shutdown"]:
                return _found(self.driver.shut_down(instance_id), instance_id)
            case "POST", ["instances", instance_id, "interrupt"]:
                notice_seconds = json.loads(body)["notice_seconds"]
                return _found(self.driver.interrupt(instance_id, notice_seconds=notice_seconds), instance_id)
            case "POST", ["instances", instance_id, "recommend-rebalance"]:
                return _found(self.driver.recommend_rebalance(instance_id), instance_id)
            case "POST", ["instances", instance_id, "drop"]:
                return _found(self.driver.drop(instance_id), instance_id)
            case "GET", ["training-hosts"]:
                return "200 OK", self.jobs.hosts()
            case "DELETE", ["training-hosts", job, host]:
                return _found(self.jobs.lose(job, host), f"{host} of {job}", kind="host")
            case "POST", ["training-jobs", job, "interrupt"]:
                return _found(self.jobs.interrupt(job), job, kind="training job")
            case "GET", ["opt-ml"]:
                return "200 OK", {"refusal": self._without_opt_ml}
            case "GET", ["permissions"]:
                return "200 OK", {"statements": RECORD.statements(self._account), "denials": RECORD.denials()}
            case "GET", ["faults"]:
                return "200 OK", ACTIVE_FAULTS.faults.to_json()
            case "PUT", ["faults"]:
                ACTIVE_FAULTS.faults = Faults.from_json(json.loads(body))
                return "200 OK", ACTIVE_FAULTS.faults.to_json()
        return "404 Not Found", {"error": f"nothing at {path}"}

    def _answer_metadata(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer an instance's request for its metadata."""
        instance_id, _, rest = str(environ["PATH_INFO"]).removeprefix(METADATA_PATH).partition("/")
        headers = {
            name.removeprefix("HTTP_").replace("_", "-"): str(value)
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        metadata = self.driver.metadata(instance_id)
        status, text = (
            (404, "") if metadata is None else metadata.answer(environ["REQUEST_METHOD"], f"/{rest}", headers)
        )
        start_response(f"{status} {HTTPStatus(status).phrase}", [("Content-Type", "text/plain")])
        return [text.encode()]


def _found(found: bool, name: str, *, kind: str = "instance") -> tuple[str, Any]:
    return ("200 OK", {}) if found else ("404 Not Found", {"error": f"no {kind} {name}"})


def _stop_on_request(server: Any, *, with_stdin: bool) -> None:
    def stop(*_signal: Any) -> None:
        # `shutdown` waits for `serve_forever`, which a signal handler in the same thread would block.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if with_stdin:

        def watch() -> None:
            sys.stdin.buffer.read()
            stop()

        threading.Thread(target=watch, name="stdin", daemon=True).start()


def _write_atomically(path: Path, text: str) -> None:
    """Write the file atomically, so that a reader sees all of it or nothing."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
