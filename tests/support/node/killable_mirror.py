"""
A program whose children mirror a folder while a writer makes new states in it, until they are killed.

One process loads what a mirror needs and forks, which costs milliseconds where a new interpreter costs half a second.
Each line of its input is a JSON object with the fields of `Task`; it answers with the child's id, and with an empty
line when the child is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

from horovod_node.checkpoints.mirror import CheckpointMirror

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 5 * 1024**2
"""S3's least."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """
    What a child does.

    Args:
        endpoint: Where S3 is.
        bucket: Where checkpoints go.
        folder: The checkpoints' folder.
        run: The run.
        attempt: Its attempt.
        first: The first state that the writer makes.
        events: File into which the child writes a line for each state that is about to appear beside another, or beside
            none ("state 7 5", "state 1 0"), and for each checkpoint that S3 has acknowledged ("checkpoint 1 12").
    """

    endpoint: str
    bucket: str
    folder: str
    run: str
    attempt: int
    first: int
    events: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def state(number: int) -> dict[str, bytes]:
    """Give the files of the state *number*: no two states have a file in common, but for its name and size."""
    word = b"%08d" % number
    return {
        "weights": word * (PART_BYTES // 8 + 1000),
        "optimizer/slots": word[::-1] * (PART_BYTES // 8 + 1),
        "optimizer/step": word,
        "empty": b"",
    }


def write_states(folder: Path, *, first: int, mirror: CheckpointMirror, events: int) -> None:
    """Make states, each in a folder that appears whole; the one before goes after that."""
    new, old = folder / ".new", folder / ".old"
    *leftover, before = [0, *sorted(int(path.name) for path in folder.glob("[0-9]*"))]
    for number in filter(None, leftover):
        (folder / f"{number}").rename(old)
        shutil.rmtree(old)
    number = first
    while True:
        for path, content in state(number).items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(content)
        os.write(events, b"state %d %d\n" % (number, before))
        new.rename(folder / f"{number}")
        if before:
            (folder / f"{before}").rename(old)
            shutil.rmtree(old)
        if number % 2:  # the others are seen by looks, in between whatever happens there
            mirror.notice()
        before, number = number, number + 1
        time.sleep(0.01)


def mirror_until_killed(s3: S3Client, task: Task) -> None:
    """Mirror, write, and record what is known."""
    events = os.open(task.events, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    folder = Path(task.folder)
    mirror = CheckpointMirror(
        s3,
        folder=folder,
        bucket=task.bucket,
        run_id=task.run,
        attempt=task.attempt,
        keep=2,
        look_seconds=0.02,
        part_bytes=PART_BYTES,
    )
    writing = {"first": task.first, "mirror": mirror, "events": events}
    threading.Thread(target=write_states, args=(folder,), kwargs=writing, daemon=True).start()
    known = mirror.newest
    while True:
        if mirror.newest != known and mirror.newest is not None:
            known = mirror.newest
            os.write(events, b"checkpoint %d %d\n" % (known.attempt, known.sequence))
        time.sleep(0.001)


def main() -> None:
    """Fork a child for every line."""
    clients: dict[str, S3Client] = {}
    for line in sys.stdin:
        task = Task(**json.loads(line))
        if task.endpoint not in clients:
            clients[task.endpoint] = boto3.client("s3", endpoint_url=task.endpoint)
        child = os.fork()
        if child == 0:
            try:
                mirror_until_killed(clients[task.endpoint], task)
            finally:
                os._exit(1)
        print(child, flush=True)
        os.waitpid(child, 0)
        print(flush=True)


if __name__ == "__main__":
    main()
