"""What an agent learns as a container of an ECS task: from the instance's file, and from ECS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from horovod_node import contract
from horovod_node.node.boot_facts import BootFacts
from horovod_node.node.ecs_task import METADATA_VARIABLE, instance_environment, task_facts

TASK = {
    "Cluster": "default",
    "TaskARN": "arn:aws:ecs:us-west-2:111122223333:task/default/8f03e41243824aea923aca126495f665",
    "PullStartedAt": "2020-10-02T00:15:06.202617438Z",
    "PullStoppedAt": "2020-10-02T00:15:36.31288465Z",
    "Containers": [{"Name": "node", "Image": "111122223333.dkr.ecr.us-west-2.amazonaws.com/node:1.0"}],
}
"""As in the developer guide, "Amazon ECS task metadata v4 examples"."""


@contextmanager
def metadata(text: str) -> Iterator[dict[str, str]]:
    """Answer for ECS; give the environment that names the endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/v4/container/task" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: ARG002 - the signature is http.server's
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield {METADATA_VARIABLE: f"http://127.0.0.1:{server.server_address[1]}/v4/container"}
        server.shutdown()


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """The instance's /proc/stat."""
    file = tmp_path / "stat"
    file.write_text("cpu  1 2 3\nctxt 4\nbtime 1601597000\nprocesses 5\n")
    return file


def test_boot_is_what_kernel_and_ecs_say(kernel: Path) -> None:
    """The receipt has the same times as on EC2, and the node's item names the task."""
    # WHEN
    with metadata(json.dumps(TASK)) as environment:
        facts = task_facts(environment, kernel=kernel)
    # THEN
    assert facts == BootFacts(
        booted_at=1_601_597_000,
        pull_began_at=1_601_597_706.202617,
        pulled_at=1_601_597_736.312884,
        image="111122223333.dkr.ecr.us-west-2.amazonaws.com/node:1.0",
        container="8f03e41243824aea923aca126495f665",
    )


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"PullStartedAt": None, "Containers": []})])
def test_what_ecs_does_not_tell_is_unknown(kernel: Path, text: str) -> None:
    """No fact about the boot can fail a run."""
    with metadata(text) as environment:
        assert task_facts(environment, kernel=kernel) == BootFacts(booted_at=1_601_597_000)


def test_without_ecs_all_is_unknown(tmp_path: Path) -> None:
    """Neither is there a task in tests of the agent, nor a kernel of Linux everywhere."""
    assert task_facts({}, kernel=tmp_path / "none") == BootFacts()


def test_environment_is_read_as_docker_reads_it(tmp_path: Path) -> None:
    """Values are taken as they are, comments and other lines are not taken."""
    # GIVEN
    file = tmp_path / "node.env"
    file.write_text(f"# of user data\n{contract.ENV_FLEET}=one=two \nnothing\n\nEMPTY=\n")
    # WHEN / THEN
    assert instance_environment(file) == {contract.ENV_FLEET: "one=two ", "EMPTY": ""}


def test_instance_without_a_file_gives_nothing(tmp_path: Path) -> None:
    """Then the agent says which variable it misses."""
    assert instance_environment(tmp_path / "node.env") == {}
