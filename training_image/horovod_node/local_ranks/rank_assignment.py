"""The ranks that this node runs, with their jobs and environments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from horovod.runner.common.util.hosts import SlotInfo
from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.local_ranks.plan import RingPlan, gloo_timeout_seconds
from horovod_node.local_ranks.script_environment import script_arguments, script_environment, write_config
from horovod_node.rank_process.job import RankJob
from horovod_node.transfer.requirements import rank_python, rank_variables


@dataclass(frozen=True, kw_only=True)
class RankAssignment:
    """
    The ranks of one node.

    Args:
        jobs: Job of each rank.
        environments: Environment of each rank, in the same order.
        elastic: Whether the ranks wait for their ring, and may join several rings, one after the other.
        ring: Description of the ring, for the log.
        python: The ranks' Python interpreter.
    """

    jobs: tuple[RankJob, ...]
    environments: tuple[Mapping[str, str], ...]
    elastic: bool
    ring: str
    python: str

    def __str__(self) -> str:
        ranks = ", ".join(str(job.rank) for job in self.jobs)
        return f"ranks {ranks} {self.ring}"


def ranks_of_plan(work: NodeAttempt, plan: RingPlan) -> RankAssignment:
    """Assign this node its ranks of *plan*. The node must be in the plan."""
    node = work.node
    shared = {
        **_shared(work, hosts=plan.addresses),
        **_texts(create_run_env_vars(plan.addresses[0], [node.interface], plan.port)),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(plan.gloo_timeout_seconds),
    }
    own = [slot for slot in plan.slots() if slot.hostname == node.address]
    jobs = tuple(_job(work, rank=slot.rank) for slot in own)
    return RankAssignment(
        jobs=jobs,
        environments=tuple(
            {**shared, **create_slot_env_vars(slot), **job.to_environment()}
            for slot, job in zip(own, jobs, strict=True)
        ),
        elastic=False,
        ring=f"of {plan.size}",
        python=rank_python(work.layout),
    )


def ranks_in_standby(work: NodeAttempt, *, leader: str) -> RankAssignment:
    """
    Assign this node a rank for each of its GPUs, before there is a ring.

    Args:
        work: The node's part in the attempt.
        leader: Address of the leader. The script needs a list of hosts from its start; it names only the leader and
            this node.
    """
    node = work.node
    shared = _shared(work, hosts=tuple(dict.fromkeys((leader, node.address))))
    jobs = tuple(_job(work, rank=place) for place in range(node.gpus))
    return RankAssignment(
        jobs=jobs,
        environments=tuple({**shared, **job.to_environment()} for job in jobs),
        elastic=True,
        ring="in standby",
        python=rank_python(work.layout),
    )


def ring_environment(slot: SlotInfo, *, leader: str, interface: str, gpus: int) -> dict[str, str]:
    """
    Return the variables by which a rank in standby joins its first ring; for later rings Horovod sets them.

    Args:
        slot: The rank's slot in the ring.
        leader: Address of the leader, which serves the rendezvous.
        interface: The node's network interface.
        gpus: Largest number of ranks of the ring.
    """
    return {
        **_texts(create_run_env_vars(leader, [interface], contract.RENDEZVOUS_PORT, elastic=True)),
        **create_slot_env_vars(slot),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(gloo_timeout_seconds(gpus)),
    }


def _shared(work: NodeAttempt, *, hosts: Sequence[str]) -> dict[str, str]:
    request, node = work.run.request, work.node
    write_config(request=request, node=node, layout=work.layout, hosts=hosts)
    return {
        **os.environ,
        **rank_variables(work.layout, os.environ),
        **script_environment(request=request, node=node, layout=work.layout, hosts=hosts, run=work.lease.run),
        "PYTHONUNBUFFERED": "1",
    }


def _job(work: NodeAttempt, *, rank: int) -> RankJob:
    return RankJob(
        rank=rank,
        code=work.layout.code,
        entry_point=work.run.request.entry_point,
        arguments=tuple(script_arguments(work.run.request.hyperparameters)),
        reports=work.layout.ranks,
        agent=os.getpid(),
    )


def _texts(variables: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in variables.items()}
