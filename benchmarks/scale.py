"""
Measures how a run's control plane scales with the number of nodes: real state machines and agents, stubbed ranks.

    python benchmarks/scale.py [--nodes 2 16 64 256 600] [--train 20]

For each number of nodes, the app is deployed into a new local cloud and trains one run. The instances have no
processes. Instead, two processes of this program run all agents (`horovod_node.agent`) as threads, one for the leader
and one for the followers, with the local cloud's ledger and buckets. Only the ranks are stubbed: they count a step
every tenth of a second for `--train` seconds.

One machine cannot answer the requests of 600 nodes in real time. So time runs slower with more nodes, for the agents
(the clock and the pauses) and for the state machine (pauses and timeouts). Every figure "a second" is in that slower
time, in which agents send as many requests as on EC2. DynamoDB's units follow from the sizes of requests and answers
(DynamoDB Developer Guide, "DynamoDB read and write operations": 4 KB a unit for a consistent read, 1 KB a unit for a
write).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
NODES_AT_FULL_SPEED: Final = 16
"""Most nodes whose requests a local cloud on one core can answer in real time."""
INSTANCE_TYPE: Final = "g5.xlarge"
SWITCH_INTERVAL: Final = 30
"""Poll interval of the dead-man's switch in seconds, with a lease of more than 5 minutes."""
LIMITS: Final = {
    "history events": "25,000 an execution",
    "payload": "262,144 bytes",
    "read units a second": "3,000 a partition",
    "write units a second": "1,000 a partition",
}
"""Limits of AWS: Step Functions guide, "Service quotas"; DynamoDB Developer Guide, "Burst and adaptive capacity"."""


def main() -> None:
    """Run the simulation for each number of nodes, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 16, 64, 256, 600])
    parser.add_argument("--train", type=float, default=20.0, help="seconds of training")
    parser.add_argument("--agents", nargs=2, metavar=("SLOWNESS", "ROLE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.agents:
        run_agents(slowness=float(options.agents[0]), role=options.agents[1], train_seconds=options.train)
        return
    rows = []
    for nodes in options.nodes:
        rows.append(simulate(nodes, train_seconds=options.train))
        print(json.dumps(rows[-1]), flush=True)
    print_table(rows)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the figures as a table in Markdown, one column for each number of nodes."""
    print("\n| | " + " | ".join(f"{row['nodes']} nodes" for row in rows) + " | AWS's limit |")
    print("|---" * (len(rows) + 2) + "|")
    for name in rows[0]:
        if name != "nodes":
            print(f"| {name} | " + " | ".join(str(row[name]) for row in rows) + f" | {LIMITS.get(name, '')} |")


# -- The run, in the process that the user started -------------------------------------------------------------------


def simulate(nodes: int, *, train_seconds: float) -> dict[str, Any]:
    """Run one training of *nodes* nodes and return its figures."""
    from horovod_local import Faults, LocalCloud

    slowness = max(1.0, nodes / NODES_AT_FULL_SPEED)
    with tempfile.TemporaryDirectory() as folder, LocalCloud(home=Path(folder) / "cloud") as cloud:
        synthesise(Path(folder) / "cdk.out", nodes=nodes, slowness=slowness)
        cloud.deploy(Path(folder) / "cdk.out", tell=lambda _line: None)
        cloud.set_faults(Faults(agents_start=False, switches_start=False))
        script = Path(folder) / "train.py"
        script.write_text("import horovod.tensorflow as hvd\n\nhvd.init()\n")
        training = cloud.training()
        run = training.fit(script, gpus=nodes)
        processes = {
            role: subprocess.Popen(
                [sys.executable, __file__, "--agents", str(slowness), role, "--train", str(train_seconds)],
                cwd=folder,
                env=cloud.environment() | {"CDK_HOROVOD_SIMULATED_TABLE": training.connection.ledger_table},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for role in ("leader", "followers")
        }
        known: set[str] = set()
        while not (status := run.status()).ended:
            for instance in cloud.instances():
                if instance.instance_id not in known:
                    known.add(instance.instance_id)
                    process = processes["leader" if instance.market == "on-demand" else "followers"]
                    facts = {
                        "id": instance.instance_id,
                        "number": len(known),
                        "type": instance.instance_type,
                        "zone": instance.zone,
                        "market": instance.market,
                        "gpus": instance.gpus,
                        "fleet": training.connection.fleets[0].id,
                        "group": training.connection.fleets[0].group,
                        "training": training.connection.queue,
                    }
                    print(json.dumps(facts), file=process.stdin, flush=True)
            time.sleep(0.5)
        reports = {role: json.loads(process.communicate()[0].splitlines()[-1]) for role, process in processes.items()}
        if not status.succeeded:
            raise SystemExit(f"the run of {nodes} nodes ended as {status}")
        figures = history_figures(cloud.client("stepfunctions"), run.execution_arn, slowness=slowness)
        receipt = run.receipt()
    requests = sum((Counter(report["requests"]) for report in reports.values()), Counter())
    return {
        "nodes": nodes,
        "time runs slower by": slowness,
        **figures,
        "nodes listed in the receipt": len(receipt["nodes"]),
        "first node joins to ring, s": round(_between(reports, "joined", "formed"), 1),
        "requests to DynamoDB a second": _peak(reports, "dynamodb"),
        "read units a second": _peak(reports, "read units"),
        "write units a second": _peak(reports, "write units"),
        "requests to S3 a second": _peak(reports, "s3"),
        "requests to Auto Scaling a second": _peak(reports, "autoscaling"),
        "requests of all nodes": sum(requests.values()),
        "the leader's memory, MB": round(reports["leader"]["memory"] / 1e6),
    }


def _between(reports: Mapping[str, Any], first: str, last: str) -> float:
    begins = [report["marks"][first] for report in reports.values() if first in report["marks"]]
    ends = [report["marks"][last] for report in reports.values() if last in report["marks"]]
    return float(max(ends) - min(begins))


def _peak(reports: Mapping[str, Any], what: str) -> int:
    seconds: Counter[str] = Counter()
    for report in reports.values():
        seconds.update(report["seconds"].get(what, {}))
    return max(seconds.values(), default=0)


def history_figures(stepfunctions: Any, execution_arn: str, *, slowness: float) -> dict[str, Any]:
    """Return the numbers of transitions and events, and the largest payload, from the execution's history."""
    pages = stepfunctions.get_paginator("get_execution_history").paginate(executionArn=execution_arn)
    events = [event for page in pages for event in page["events"]]
    entered = [event for event in events if event["type"].endswith("StateEntered")]
    carried: Counter[str] = Counter()
    state = ""
    for event in events:
        state = event.get("stateEnteredEventDetails", {}).get("name", state)
        for name, details in event.items():
            if name.endswith("EventDetails"):
                for value in details.values():
                    texts = value.values() if isinstance(value, dict) else [value]
                    largest = max((len(text.encode()) for text in texts if isinstance(text, str)), default=0)
                    carried[state] = max(carried[state], largest)
    # The last one of each state, because a run also empties its fleet before it starts nodes.
    last = {event["stateEnteredEventDetails"]["name"]: event["timestamp"] for event in entered}
    where, payload = carried.most_common(1)[0]
    return {
        "state transitions": len(entered),
        "history events": len(events),
        "payload": payload,
        "largest in": where,
        "Terminate to confirmed, s": round(
            (last["Confirm that nothing runs"] - last["Terminate"]).total_seconds() / slowness, 1
        ),
    }


def synthesise(out: Path, *, nodes: int, slowness: float) -> None:
    """Synthesise one training with one fleet, whose timeouts are multiplied by *slowness*."""
    import aws_cdk as cdk
    from aws_cdk import Duration

    from cdk_horovod import (
        CapacityPlan,
        Engine,
        GpuFleet,
        HorovodTraining,
        RunTimeouts,
        TrainingImage,
        TrainingNetwork,
        TrainingStorage,
    )

    def slowly(seconds: float) -> Duration:
        return Duration.seconds(math.ceil(seconds * slowness))

    app = cdk.App(outdir=str(out))
    stack = cdk.Stack(app, "Training")
    network = TrainingNetwork(stack, "Network")
    fleet = GpuFleet(
        stack,
        "Fleet",
        vpc=network.vpc,
        vpc_subnets=network.subnets,
        instance_types=[INSTANCE_TYPE],
        max_gpus=nodes,
        on_demand_base_gpus=1,
        capacity_plan=CapacityPlan.spot_first(any_zone=slowly(600), each_zone=slowly(300)),
    )
    HorovodTraining(
        stack,
        "Horovod",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:none"),
        engine=Engine.ec2(fleet),
        timeouts=RunTimeouts(
            heartbeat=slowly(60),
            launch_timeout=slowly(900),
            start_timeout=slowly(1800),
            first_step_timeout=slowly(1800),
            stall_timeout=slowly(600),
            lease_timeout=Duration.hours(4),
            poll_interval=slowly(15),
        ),
    )
    app.synth()


# -- The agents, in separate processes -------------------------------------------------------------------------------


class Meter:
    """Counts the requests of clients, in total and by the second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.seconds: dict[str, Counter[str]] = {}
        self.marks: dict[str, float] = {}

    def watch(self, client: Any) -> Any:
        """Count the requests of *client*, a boto3 client, and return it."""
        client.meta.events.register("after-call", self._count)
        return client

    def mark(self, name: str, *, first: bool = False) -> None:
        """Record the time of an event *name*: the last time, or with *first* the first time."""
        with self._lock:
            if not (first and name in self.marks):
                self.marks[name] = epoch_seconds()

    def _count(self, *, http_response: Any, parsed: Any, model: Any, **_: Any) -> None:
        service, operation = model.service_model.service_name, model.name
        second = str(int(epoch_seconds()))
        answered = len(http_response.content) if service == "dynamodb" else 0
        with self._lock:
            self.requests[f"{service} {operation}"] += 1
            self._add(service, second, 1)
            if operation in ("GetItem", "Query"):
                self._add("read units", second, max(1, math.ceil(answered / 4096)))
            elif service == "dynamodb":
                self._add("write units", second, 1)

    def _add(self, what: str, second: str, amount: int) -> None:
        self.seconds.setdefault(what, Counter())[second] += amount


class StubbedTraining:
    """Replaces the node's `LocalTraining`: its ranks count a step every tenth of a second."""

    seconds_of_training: float = 0.0
    meter: Meter

    def __init__(self, work: Any, _assignment: Any) -> None:
        self._work = work
        self._begun = time.monotonic()
        self.metrics = type("Metrics", (), {"ring_size": 0})()
        self.lines: dict[int, Any] = {}
        self.meter.mark("formed")

    def __enter__(self) -> StubbedTraining:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        (self._work.layout.model / "model.txt").write_text("a model\n")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    @property
    def step(self) -> int:
        return int(10 * min(self.seconds, self.seconds_of_training))

    @property
    def done(self) -> bool:
        return self.seconds >= self.seconds_of_training

    def progress(self) -> dict[int, Any]:
        from horovod_node.rank_process.progress import Progress

        return {0: Progress(step=self.step, advances=self.step)}

    def pace(self) -> tuple[()]:
        return ()

    def failure(self) -> None:
        return None


_real_monotonic, _real_sleep, _real_time = time.monotonic, time.sleep, time.time
_slowness = 1.0


def epoch_seconds() -> float:
    """Return the time in slow seconds, the same in all processes."""
    return _real_time() / _slowness


def run_agents(*, slowness: float, role: str, train_seconds: float) -> None:
    """Run an agent for each node in standard input, until it closes and all agents have ended; print their report."""
    global _slowness
    _slowness = slowness
    # The clock and pauses of agents and SDK; sockets and locks still use real time.
    time.monotonic = lambda: _real_monotonic() / slowness
    time.sleep = lambda seconds: _real_sleep(seconds * slowness)
    import boto3
    from botocore.config import Config

    from horovod_node.ring import static_follower, static_leader

    meter = StubbedTraining.meter = Meter()
    StubbedTraining.seconds_of_training = train_seconds
    for module in (static_follower, static_leader):
        module.LocalTraining = StubbedTraining  # type: ignore[attr-defined]
    config = Config(max_pool_connections=64, retries={"mode": "standard", "total_max_attempts": 5}, read_timeout=120)
    session = boto3.session.Session()
    clients = {
        name: meter.watch(session.client(name, config=config))  # type: ignore[call-overload]
        for name in ("dynamodb", "s3", "stepfunctions", "autoscaling")
    }
    threads = []
    for facts in _lines_of_standard_input():
        thread = threading.Thread(target=run_agent, args=(facts, clients, meter, slowness), daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join(timeout=600)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "role": role,
                "requests": meter.requests,
                "seconds": meter.seconds,
                "marks": meter.marks,
                "memory": memory,
            }
        ),
        flush=True,
    )


def _lines_of_standard_input() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def run_agent(facts: Mapping[str, Any], clients: Mapping[str, Any], meter: Meter, slowness: float) -> None:
    """Run one agent from joining to leaving, and then what its instance would do when the agent has ended."""
    import os

    from horovod_node import contract
    from horovod_node.agent import Agent
    from horovod_node.ledger.ledger import Ledger
    from horovod_node.node.identity import Node

    class SlowLedger(Ledger):
        """Returns time limits in the agent's slow seconds."""

        def with_patience(self, seconds: float) -> SlowLedger:
            return SlowLedger(self._dynamodb, table=self._table, patience_seconds=seconds)

        def run(self, *arguments: Any) -> Any:
            run = super().run(*arguments)
            if run is None:
                return None
            settings = run.settings
            quick = {
                name: getattr(settings, name) / slowness
                for name in ("heartbeat_seconds", "first_step_seconds", "stall_seconds")
            }
            return dataclasses.replace(run, settings=dataclasses.replace(settings, **quick))

    number = int(facts["number"])
    node = Node(
        id=facts["id"],
        # Only the leader listens; nobody connects to the other addresses.
        address=f"127.{64 + number // 250}.{os.getpid() % 250 + 1}.{number % 250 + 1}",
        interface="lo",
        gpus=int(facts["gpus"]),
        instance_type=facts["type"],
        zone=facts["zone"],
        market=facts["market"],
        fleet=facts["fleet"],
        ledger_table=os.environ["CDK_HOROVOD_SIMULATED_TABLE"],
        region=os.environ["AWS_REGION"],
        ml_root=Path.cwd() / "ml" / facts["id"],
        engine=contract.ENGINE_LOCAL,
        training=facts["training"],
    )
    meter.mark("joined", first=True)
    agent = Agent(
        node,
        ledger=SlowLedger(clients["dynamodb"], table=node.ledger_table),
        s3=clients["s3"],
        stepfunctions=clients["stepfunctions"],
    )
    if agent.take_part() == contract.EXIT_PART_OVER:
        # As `dead_mans_switch.sh leave`: spread over its interval; the workflow may have terminated the instance.
        time.sleep(number % SWITCH_INTERVAL)
        with contextlib.suppress(clients["autoscaling"].exceptions.ClientError):
            clients["autoscaling"].terminate_instance_in_auto_scaling_group(
                InstanceId=node.id, ShouldDecrementDesiredCapacity=True
            )


if __name__ == "__main__":
    main()
