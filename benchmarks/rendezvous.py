"""
Measures how long a ring takes to form, with our rendezvous and with that of `horovodrun`.

    python benchmarks/rendezvous.py [--ranks 2 16 64 128] [--runs 3]

Every rank is a process that calls `hvd.init()` and one `hvd.allreduce` of the real Horovod for TensorFlow. The ranks
are forked from a process that has imported TensorFlow but not used it, because 128 imports would dominate the
measurement. All ranks begin at the same time. The rendezvous is a separate process, as the agent and `horovodrun` are.

All ranks run on this machine, but as on hosts with eight ranks: each host has its own address, in a network namespace
that ends with the command. Every pair of ranks listens on its own port, and with 128 ranks on one address the kernel's
search for free ports would dominate.

Both servers alternate, with the Gloo timeout of a run of that size. The measurement ends when the last rank has the
sum.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars

from horovod_node.local_ranks.plan import RingHost, RingPlan, gloo_timeout_seconds

PORT: Final = 29411
RANKS_OF_A_HOST: Final = 8
SERVERS: Final = ("cdk-horovod", "horovodrun")
_EXTRA_SECONDS: Final = 60
"""Time after the Gloo timeout, after which ranks that hang are killed."""


@dataclass(frozen=True, kw_only=True)
class Formed:
    """
    The measurement of one ring.

    Args:
        ranks: Number of ranks that got the sum.
        seconds: Seconds until the last of them got it.
        server_seconds: Processor time of the rendezvous, in seconds.
        ranks_seconds: Processor time of all ranks, from start to end, in seconds.
    """

    ranks: int
    seconds: float
    server_seconds: float
    ranks_seconds: float


def main() -> None:
    """Form rings of each size with both servers alternately, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 16, 64, 128])
    parser.add_argument("--runs", type=int, default=3, help="number of rings of each size and server")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        unshare = ("unshare", "--user", "--map-root-user", "--net")
        raise SystemExit(subprocess.run([*unshare, sys.executable, *sys.argv, "--inside"], check=False).returncode)
    make_hosts(-(-max(options.ranks) // RANKS_OF_A_HOST))
    import horovod.tensorflow  # noqa: F401 - the ranks inherit the import

    rows = []
    for ranks in options.ranks:
        formed: dict[str, list[Formed]] = {server: [] for server in options.servers}
        for run in range(options.runs):
            for server in options.servers:
                ring = form(server, ranks)
                formed[server].append(ring)
                print(
                    f"{run + 1} {server}: {ring.ranks} of {ranks} ranks in {ring.seconds:.2f} s; processor time:"
                    f" server {ring.server_seconds:.2f} s, ranks {ring.ranks_seconds:.2f} s",
                    flush=True,
                )
        rows.append(row(ranks, formed))
    print(f"\n| ranks | {' | '.join(options.servers)} | median of ratios |\n|{'---|' * (len(options.servers) + 2)}")
    print("\n".join(rows))


def make_hosts(count: int) -> None:
    """Create an interface and an address for each host, in this process's network namespace."""
    labels = [f"addr add {address(number)}/32 dev lo label {interface(number)}" for number in range(count)]
    commands = ["link set lo up", *labels]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def interface(number: int) -> str:
    """Return the name of a host's interface. Gloo also accepts the label of a loopback address."""
    return f"lo:{number}"


def address(number: int) -> str:
    """Return a host's address."""
    return f"10.0.{number}.1"


def row(ranks: int, formed: dict[str, list[Formed]]) -> str:
    """Format a row of the table."""
    cells = [str(ranks)]
    for rings in formed.values():
        whole = [ring for ring in rings if ring.ranks == ranks]
        cells.append(f"{spread([ring.seconds for ring in whole])}, {len(whole)} of {len(rings)}" if whole else "none")
    pairs = (
        [
            first.seconds / second.seconds
            for first, second in zip(*formed.values(), strict=True)
            if first.ranks == second.ranks == ranks
        ]
        if len(formed) > 1
        else []
    )
    cells.append(f"{statistics.median(pairs):.2f}, {min(pairs):.2f} to {max(pairs):.2f}" if pairs else "")
    return f"| {' | '.join(cells)} |"


def spread(seconds: Sequence[float]) -> str:
    """Format median and range of the measurements."""
    return f"{statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f}"


def form(server: str, ranks: int) -> Formed:
    """Form one ring of *ranks* ranks."""
    hosts = tuple(
        RingHost(node=f"n{number}", address=address(number), slots=min(RANKS_OF_A_HOST, ranks - first))
        for number, first in enumerate(range(0, ranks, RANKS_OF_A_HOST))
    )
    plan = RingPlan(hosts=hosts, port=PORT, gloo_timeout_seconds=gloo_timeout_seconds(ranks))
    with served(server, plan) as (port, stop):
        told, tell = os.pipe()
        wait, begin = os.pipe()
        processes = []
        for slot in plan.slots():
            process = os.fork()
            if process == 0:
                os.close(begin)
                variables = {
                    **create_run_env_vars(plan.addresses[0], [interface(plan.addresses.index(slot.hostname))], port),
                    **create_slot_env_vars(slot),
                    "HOROVOD_GLOO_TIMEOUT_SECONDS": plan.gloo_timeout_seconds,
                }
                os.environ.update({name: str(value) for name, value in variables.items()})
                take_part(wait, tell, ranks)
            processes.append(process)
        os.close(tell)
        os.close(wait)
        signal.signal(signal.SIGALRM, lambda *_: end(processes))
        signal.alarm(plan.gloo_timeout_seconds + _EXTRA_SECONDS)
        began = time.monotonic()
        os.close(begin)
        with os.fdopen(told) as answers:
            ends = [float(line) for line in answers]
        signal.alarm(0)
        before = processor_seconds(resource.RUSAGE_CHILDREN)
        for process in processes:
            os.waitpid(process, 0)
        return Formed(
            ranks=len(ends),
            seconds=max(ends, default=began) - began,
            server_seconds=stop(),
            ranks_seconds=processor_seconds(resource.RUSAGE_CHILDREN) - before,
        )


def processor_seconds(who: int) -> float:
    """Return the processor time of this process, or of its ended children, in seconds."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def take_part(wait: int, tell: int, ranks: int) -> None:
    """Run one rank in this process, and report the time at which it has the sum."""
    code = 1
    try:
        import horovod.tensorflow as hvd
        import tensorflow as tf

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        os.read(wait, 1)
        hvd.init()
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        total = float(hvd.allreduce(tf.ones(()), op=hvd.Sum))
        at = time.monotonic()
        if total == ranks:
            os.write(tell, f"{at}\n".encode())
        hvd.shutdown()
        code = 0
    finally:
        os._exit(code)


def end(processes: Sequence[int]) -> None:
    """Kill ranks that hang."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def served(server: str, plan: RingPlan) -> Iterator[tuple[int, Any]]:
    """Serve *plan* in another process; yield its port, and a function that stops it and returns its processor time."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(server, plan, theirs), daemon=True)
    process.start()

    def stop() -> float:
        ours.send(None)
        return float(ours.recv())

    try:
        yield int(ours.recv()), stop
    finally:
        process.kill()
        process.join()


def serve(server: str, plan: RingPlan, asked: Connection) -> None:
    """Serve a rendezvous until the parent process asks for its processor time."""
    if server == "horovodrun":
        from horovod.runner.http.http_server import RendezvousServer

        theirs = RendezvousServer()
        port = theirs.start()
        theirs.init(plan.slots())
        finish(asked, port)
    else:
        from horovod_node.ring.rendezvous import Rendezvous

        with closing(Rendezvous(plan.addresses[0], plan.port)) as rendezvous:
            rendezvous.init(plan.slots())
            finish(asked, plan.port)


def finish(asked: Connection, port: int) -> None:
    """Report the port of the rendezvous and, when the parent asks, its processor time."""
    before = processor_seconds(resource.RUSAGE_SELF)
    asked.send(port)
    asked.recv()
    asked.send(processor_seconds(resource.RUSAGE_SELF) - before)


if __name__ == "__main__":
    main()
