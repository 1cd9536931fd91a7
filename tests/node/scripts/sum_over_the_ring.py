"""One rank on a host of its own: `sum_over_the_ring.py RANK ADDRESS…` prints the sum of a one from each rank."""

from __future__ import annotations

import os
import sys

from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars

from horovod_node.ring.rendezvous import Rendezvous

PORT = 29777

rank, addresses = int(sys.argv[1]), sys.argv[2:]
slots = get_host_assignments(parse_hosts(",".join(f"{address}:1" for address in addresses)), len(addresses))
environment = {**create_run_env_vars(addresses[0], ["eth0"], PORT), **create_slot_env_vars(slots[rank])}
os.environ |= {name: str(value) for name, value in environment.items()}
if rank == 0:
    Rendezvous(addresses[0], PORT).init(slots)

import horovod.tensorflow as hvd  # noqa: E402 - reads the environment
import tensorflow as tf  # noqa: E402 - the other rank waits for the rendezvous, not for this

hvd.init()
print(float(hvd.allreduce(tf.ones(()), op=hvd.Sum)))
hvd.shutdown()
