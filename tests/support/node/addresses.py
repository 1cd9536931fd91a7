"""Loopback addresses for tests, which no other test has while it runs, in this process or in any other."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from typing import Final

_FIRST, _LAST = 1, 126
"""Second numbers of the networks; the local cloud's instances have larger ones."""
_nets = itertools.product(range(_FIRST, _LAST + 1), range(256))
_reserved: Final[list[socket.socket]] = []


def new_addresses() -> Callable[[int], str]:
    """
    Give a source of addresses 127.x.y.N, all of one network.

    Ports are the product's own and fixed, so two tests with one network would meet. A name that the kernel gives to one
    process at a time reserves the network for the rest of this one's life; process ids, which other workers of pytest
    and other sessions have too, do not tell networks apart.
    """
    for second, third in _nets:
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0cdk-horovod-tests-127.{second}.{third}")
        except OSError:
            mark.close()
            continue
        _reserved.append(mark)
        return lambda number: f"127.{second}.{third}.{number}"
    raise RuntimeError("no loopback network is left for this test")
