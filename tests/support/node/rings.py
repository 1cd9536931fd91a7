"""Rings of real agents."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import horovod_node
from horovod_node import contract
from support.node.emulated_aws import REGION, Aws, TaskAnswers, id_of
from support.node.loopback import new_addresses
from support.synthesis import REPOSITORY
from support.waiting import SECONDS, eventually

SCRIPTS = REPOSITORY / "tests" / "node" / "scripts"
SETTINGS = contract.RunSettings(
    model_bucket="",
    heartbeat_seconds=8,
    first_step_seconds=240,
    stall_seconds=60,
    lease_seconds=60,
    elastic_seconds=240,
    keep_checkpoints=3,
)


def pack(folder: Path) -> bytes:
    """Pack a folder as the client packs a script's."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return archive.getvalue()


def wait_for(what: str, ready: Callable[[], Any], *, seconds: float = SECONDS) -> Any:
    """Wait until *ready* answers something, and give it."""
    answer = eventually(ready, seconds=seconds)
    assert answer, f"waited {seconds} s for {what}"
    return answer


@dataclass(kw_only=True)
class Agent:
    """One node's agent, a process."""

    id: str
    address: str
    ml_root: Path
    log: Path
    process: subprocess.Popen[bytes]

    def text(self) -> str:
        """Give everything that the agent and its ranks printed."""
        return self.log.read_text()

    def rank(self) -> int:
        """Find the process of the node's only rank."""
        ranks = []
        for process in self.processes():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if b"horovod_node.rank_process.rank" in Path(f"/proc/{process}/cmdline").read_bytes():
                    ranks.append(process)
        (rank,) = ranks
        return rank

    def journal(self, event: str | None = None) -> list[dict[str, Any]]:
        """Read what the node's ranks wrote down, of one event or of all, in the order of time."""
        lines = [line for file in self.ml_root.glob("journal-*.jsonl") for line in file.read_text().splitlines()]
        entries = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the line that a killed rank did not finish
                entries.append(json.loads(line))
        wanted = [entry for entry in entries if event in (None, entry["event"])]
        return sorted(wanted, key=lambda entry: float(entry["at"]))

    def steps(self) -> list[int]:
        """List the steps that the node took, repeated ones too."""
        return [entry["step"] for entry in self.journal("step")]

    def until_step(self, step: int) -> None:
        """Wait until the node has taken the step."""
        wait_for(f"step {step}", lambda: max(self.steps(), default=0) >= step)

    def exit_code(self) -> int:
        """Wait for the agent's end."""
        return self.process.wait(timeout=SECONDS)

    def kill(self) -> None:
        """Kill everything that runs on the node at once."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):  # ranks end with their agent
                os.kill(process, signal.SIGKILL)

    def left(self, *expected: int) -> list[int]:
        """
        Wait until of all processes only the *expected* ones are left, and give those that are.

        A process that was killed is there until the kernel has had the time to end it.
        """
        return eventually(lambda: sorted(self.processes()), lambda left: left == sorted(expected))

    def processes(self) -> list[int]:
        """List all processes that work in this node's folder: the agent, its ranks, what they started."""
        mark = f"{contract.ENV_ML_ROOT}={self.ml_root}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found


@dataclass(kw_only=True)
class Ring:
    """Agents of one run, with the test in the place of the state machine."""

    aws: Aws
    answers: TaskAnswers
    folder: Path
    run: str = field(default_factory=lambda: f"run-{uuid.uuid4().hex[:8]}")
    fleet: str = "fleet"
    agents: list[Agent] = field(default_factory=list)
    address: Callable[[int], str] = field(default_factory=new_addresses)
    attempt: int = 1

    @property
    def run_id(self) -> str:
        """Which run it is."""
        return id_of(self.run)

    def submit(
        self,
        *,
        gpus: int = 2,
        min_gpus: int | None = None,
        settings: contract.RunSettings = SETTINGS,
        entry_point: str = "train_digits.py",
        resume_from: str = "",
        scripts: Path = SCRIPTS,
        **hyperparameters: object,
    ) -> None:
        """Put the request and the lease into the ledger."""
        digits = load_digits()
        data = io.BytesIO()
        np.savez_compressed(data, images=(digits.images / 16).astype("float32"), labels=digits.target)
        s3 = self.aws.client("s3")
        s3.put_object(Bucket=self.aws.data_bucket, Key="digits/digits.npz", Body=data.getvalue())
        s3.put_object(Bucket=self.aws.data_bucket, Key="source/source.tar.gz", Body=pack(scripts))
        request = {
            contract.SOURCE: f"s3://{self.aws.data_bucket}/source/source.tar.gz",
            contract.ENTRY_POINT: entry_point,
            contract.GPUS: gpus,
            contract.MIN_GPUS: gpus if min_gpus is None else min_gpus,
            contract.DATA: {"train": f"s3://{self.aws.data_bucket}/digits/"},
            contract.HYPERPARAMETERS: {name.replace("_", "-"): value for name, value in hyperparameters.items()},
        }
        if resume_from:
            request[contract.RESUME_FROM] = resume_from
        complete = replace(settings, model_bucket=self.aws.model_bucket)
        self.aws.put(
            contract.run_key(self.run_id),
            **{
                contract.VERSION: contract.CONTRACT_VERSION,
                contract.REQUEST_JSON: json.dumps(request),
                contract.SETTINGS_JSON: json.dumps(asdict(complete)),
            },
        )
        self.aws.put_lease(self.fleet, run=self.run)

    def start(self, nodes: int = 2, *, python: str = sys.executable, **environment: str) -> None:
        """Start more agents of the local engine, each on an address of its own."""
        first = len(self.agents) + 1
        for number in range(first, first + nodes):
            name, address = f"node-{number}", self.address(number)
            facts = {
                contract.ENV_ENGINE: contract.ENGINE_LOCAL,
                contract.ENV_NODE_ID: name,
                contract.ENV_NODE_ADDRESS: address,
                contract.ENV_NODE_INTERFACE: "lo",
                contract.ENV_NODE_GPUS: "1",
                contract.ENV_NODE_TYPE: "g5.xlarge",
                contract.ENV_NODE_ZONE: "us-east-1a",
                # The first node leads: the others are of the market that waits.
                contract.ENV_NODE_MARKET: contract.ON_DEMAND if number == 1 else contract.SPOT,
            }
            self.launch([python, "-m", "horovod_node"], name=name, address=address, **{**facts, **environment})

    def launch(self, command: Sequence[str], *, name: str, address: str, **environment: str) -> Agent:
        """
        Start one more agent.

        Args:
            command: What its container runs.
            name: Names its folder and its log; one that is started again keeps the folder.
            address: Its IPv4 address.
            environment: The variables that its engine sets.
        """
        ml_root, log = self.folder / name, self.folder / f"{name}.log"
        variables = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "CDK_HOROVOD_"))},
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.aws.endpoint,
            "AWS_ENDPOINT_URL_SFN": self.answers.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPATH": str(Path(horovod_node.__file__).parents[1]),
            "CUDA_VISIBLE_DEVICES": "-1",
            "OMP_NUM_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            contract.ENV_LEDGER_TABLE: self.aws.table,
            contract.ENV_FLEET: self.fleet,
            contract.ENV_ML_ROOT: str(ml_root),
            **environment,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        agent = Agent(id=name, address=address, ml_root=ml_root, log=log, process=process)
        self.agents.append(agent)
        return agent

    def begin_anew(self) -> None:
        """Begin the next attempt, as the state machine does when the leader is lost."""
        self.attempt += 1
        self.aws.put_lease(self.fleet, run=self.run, attempt=self.attempt)

    def token(self, task: contract.Task) -> str:
        """Name the token of *task*."""
        return f"{self.run}-{self.attempt}-{task}"

    def ask(self, task: contract.Task) -> None:
        """Ask the leader, without waiting."""
        self.aws.put(
            contract.task_key(self.fleet, self.run_id, self.attempt, task), **{contract.TOKEN: self.token(task)}
        )

    def answer(self, task: contract.Task, *, seconds: float = SECONDS) -> dict[str, Any]:
        """Wait for the leader's answer: a success's output, or a failure's `error` and `cause`."""

        def ready() -> dict[str, Any] | None:
            # In this order: who answers may end right after that.
            all_ended = all(agent.process.poll() is not None for agent in self.agents)
            answer = self.answers.answer(self.token(task))
            if answer is None and all_ended:
                pytest.fail(f"all agents ended without an answer to '{task}'\n{self.log()}")
            return answer

        body = wait_for(f"the answer to '{task}'", ready, seconds=seconds)
        return json.loads(body["output"]) if "output" in body else {"error": body["error"], "cause": body["cause"]}

    def asked(self, task: contract.Task) -> dict[str, Any]:
        """Ask the leader and wait for the answer."""
        self.ask(task)
        return self.answer(task)

    def begin(self) -> dict[str, Any]:
        """Form the ring, ask for the training, and give the ring."""
        formed = self.asked(contract.TASK_RING)
        assert "error" not in formed, f"{formed}\n{self.log()}"
        self.ask(contract.TASK_TRAIN)
        return formed

    def end(self) -> dict[str, Any]:
        """Wait for the end of the training."""
        trained = self.answer(contract.TASK_TRAIN)
        assert "error" not in trained, f"{trained}\n{self.log()}"
        return trained

    def facts(self) -> dict[str, Any]:
        """Ask for the model and read what the script left in it."""
        saved = self.asked(contract.TASK_SAVE)
        archive = self.aws.client("s3").get_object(Bucket=self.aws.model_bucket, Key=saved["key"])
        with tarfile.open(fileobj=io.BytesIO(archive["Body"].read()), mode="r:gz") as tar:
            found: dict[str, Any] = json.load(tar.extractfile("facts.json") or io.StringIO())
        return found

    def until_training(self) -> None:
        """Form the ring, ask for the training and wait for the first steps on all nodes."""
        self.begin()
        ledger = self.aws.ledger()
        lease = ledger.lease(self.fleet)
        assert lease is not None
        wait_for("training steps", lambda: all(node.step for node in ledger.nodes(lease)) and ledger.nodes(lease))

    def release(self) -> None:
        """Give the fleet back."""
        self.aws.delete(contract.lease_key(self.fleet))

    def log(self) -> str:
        """Give what all agents printed."""
        return "\n".join(f"--- {agent.id}\n{agent.text()}" for agent in self.agents)

    def close(self) -> None:
        """End what is left, whatever state the test left it in."""
        for agent in self.agents:
            agent.kill()
            agent.process.wait(timeout=SECONDS)
