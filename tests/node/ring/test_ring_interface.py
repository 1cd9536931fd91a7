"""Ranks on hosts of their own: two network namespaces, each with a name, an address, and a link between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.ring

SCRIPT = Path(__file__).parents[1] / "scripts" / "sum_over_the_ring.py"
ADDRESSES = ("10.78.0.11", "10.78.0.12")


@dataclass(frozen=True, kw_only=True)
class Host:
    """
    A network namespace with one interface, `eth0`.

    Args:
        namespace: Its name on this machine.
        address: Address of `eth0`.
    """

    namespace: str
    address: str

    def start(self, *command: str, name: str, hosts_file: Path) -> subprocess.Popen[str]:
        """Start *command* where the host is called *name* and /etc/hosts is *hosts_file*."""
        # nsswitch.conf too: what resolves names on the test's machine shall not answer for this host.
        switch = hosts_file.with_name("nsswitch.conf")
        switch.write_text("hosts: files\n")
        prepare = f"hostname {name} && mount --bind {hosts_file} /etc/hosts && mount --bind {switch} /etc/nsswitch.conf"
        enter = ("ip", "netns", "exec", self.namespace, "unshare", "--uts", "--mount")
        return subprocess.Popen(
            [*enter, "sh", "-c", f'{prepare} && exec "$@"', "sh", *command],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HOROVOD_GLOO_TIMEOUT_SECONDS": "30"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, ...]]:
    """Two hosts with a link between their interfaces, and no other network."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("only root can make network namespaces, and only with iproute2")
    pair = tuple(
        Host(namespace=f"cdk-horovod-{os.getpid()}-{number}", address=address)
        for number, address in enumerate(ADDRESSES)
    )
    made: list[str] = []
    try:
        for host in pair:
            try:
                ip("netns", "add", host.namespace)
            except subprocess.CalledProcessError as refused:
                pytest.skip(f"this machine makes no network namespaces: {refused.stderr.strip()}")
            made.append(host.namespace)
        one, other = made
        ip("link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", other)
        for host in pair:
            ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.namespace, "link", "set", "eth0", "up")
            ip("-n", host.namespace, "link", "set", "lo", "up")
        yield pair
    finally:
        for namespace in made:
            ip("netns", "delete", namespace)


@pytest.mark.parametrize("resolves_to", ["127.0.0.1", None], ids=["to loopback", "nowhere"])
def test_ranks_meet_on_the_interface_that_is_named(
    hosts: tuple[Host, ...], resolves_to: str | None, tmp_path: Path
) -> None:
    """Collectives use HOROVOD_GLOO_IFACE wherever a host's own name resolves to; Horovod 0.28.1 alone fails here."""
    # GIVEN hosts whose own names resolve to no address by which the other host could reach them
    ranks = []
    for rank, host in enumerate(hosts):
        file = tmp_path / str(rank) / "hosts"
        file.parent.mkdir()
        file.write_text("127.0.0.1 localhost\n" + (f"{resolves_to} host{rank}\n" if resolves_to else ""))
        # WHEN each runs one rank of a ring
        command = (sys.executable, str(SCRIPT), str(rank), *ADDRESSES)
        ranks.append(host.start(*command, name=f"host{rank}", hosts_file=file))
    said = [rank.communicate()[0] for rank in ranks]
    # THEN
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    assert [text.splitlines()[-1] for text in said] == ["2.0", "2.0"]
