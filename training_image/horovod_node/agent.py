"""The agent's life: join, lead or follow, leave."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from horovod_node import contract
from horovod_node.background import in_background
from horovod_node.errors import ReleasedError, RunError, exit_code
from horovod_node.failure import as_failure, as_run_error
from horovod_node.fetch import fetch
from horovod_node.follow import Follower
from horovod_node.identify import Node
from horovod_node.layout import Layout
from horovod_node.lead import Leader
from horovod_node.ledger import Ledger
from horovod_node.membership import Membership
from horovod_node.preflight import installed_keras, refusal
from horovod_node.work import Work

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient

_log = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""How long a node of another market leaves the lead to one of the leader's market, which may still be booting."""
_LOOK_SECONDS = 0.5


def take_part(node: Node, *, ledger: Ledger, s3: S3Client, stepfunctions: SFNClient) -> int:
    """
    Take part in the run that holds the node's fleet, from joining to leaving.

    This is the one boundary between the user's failures and ours: whatever is raised inside becomes an answer to the
    state machine or a record in the ledger, a file for people, and one of the contract's exit codes.

    Args:
        node: This node.
        ledger: Patient access to the ledger.
        s3: boto3 client.
        stepfunctions: boto3 client.

    Returns:
        The process's exit code.
    """
    try:
        work = join(node, ledger=ledger, s3=s3, stepfunctions=stepfunctions)
    except ReleasedError as reason:
        _log.info("leaving: %s", reason)
        return contract.EXIT_RELEASED
    except Exception as error:
        failed = as_run_error(error)
        _log.error("%s: %s", failed.error, failed.message)
        return exit_code(failed.error)
    try:
        lead_or_follow(work)
    except ReleasedError as reason:
        _log.info("leaving: %s", reason)
        return contract.EXIT_RELEASED
    except Exception as error:
        failed = as_run_error(error)
        _log.error("%s: %s", failed.error, failed.message)
        _leave_failed(work, failed)
        return exit_code(failed.error)


def join(node: Node, *, ledger: Ledger, s3: S3Client, stepfunctions: SFNClient) -> Work:
    """
    Find out which run the node works for.

    Raises:
        ReleasedError: If no run holds the fleet.
        RunError: If the run needs another version of this agent.
    """
    lease = ledger.lease(node.fleet)
    if lease is None:
        raise ReleasedError(f"nobody holds fleet {node.fleet}")
    run = ledger.run(lease.run)
    if run is None:
        raise ReleasedError(f"{lease.run}, which holds fleet {node.fleet}, is no run in the ledger")
    _log.info("%s joins attempt %d of run %s", node.id, lease.attempt, lease.run)
    return Work(
        node=node,
        lease=lease,
        run=run,
        layout=Layout(root=node.ml_root),
        ledger=ledger,
        s3=s3,
        stepfunctions=stepfunctions,
    )


def lead_or_follow(work: Work) -> NoReturn:
    """
    Do the node's part of the run; never returns without an exception.

    Raises:
        ReleasedError: If the node's part is over.
        RunError: If the run failed.
    """
    work.layout.create()
    membership = Membership(work)
    membership.keep()
    fetched = in_background(lambda: prepare(work, os.environ))
    leader = elect(work, membership)
    if leader == work.node.id:
        membership.lead()
        Leader(work, membership).lead(fetched)
    Follower(work, membership, leader=leader).follow(fetched)


def prepare(work: Work, environment: Mapping[str, str]) -> None:
    """
    Bring the script and the data here, and look whether the script can train in this image.

    Raises:
        RunError: If anything is missing, or the preflight refuses the script.
    """
    request = work.run.request
    fetch(work.s3, request=request, layout=work.layout)
    source = (work.layout.code / request.entry_point).read_text(errors="replace")
    reason = refusal(source, installed_keras(environment))
    if reason is not None:
        raise RunError(contract.ERROR_PREFLIGHT, f"{request.entry_point} was not started. {reason}")


def elect(work: Work, membership: Membership) -> str:
    """
    Name the leader; this node offers itself, at once if it is of the leader's market and late otherwise.

    A node that cannot prepare still leads if no other does: the state machine must hear the reason from somebody.
    """
    patience = 0.0 if work.node.market == work.lease.leader_market else GRACE_SECONDS
    joined = time.monotonic()
    while time.monotonic() - joined < patience:
        leader = work.ledger.leader(work.lease)
        if leader is not None:
            return leader
        membership.keep()
        time.sleep(_LOOK_SECONDS)
    leader = work.ledger.claim_leader(work.lease, work.node.id, remove_at=work.run.remove_at)
    _log.info("%s leads", leader)
    return leader


def _leave_failed(work: Work, failed: RunError) -> None:
    """Leave word of the failure, in the ledger for the leader and in SageMaker's file for people."""
    failure = as_failure(failed, node=work.node.id, address=work.node.address)
    ledger = work.ledger.with_patience(0)
    try:
        work.layout.failure.write_text(f"{failed.error}: {failed.message}\n")
        ledger.put_failure(work.lease, work.node.id, failure.to_json(), remove_at=work.run.remove_at)
        ledger.put_node(work.lease, work.node, state=contract.NODE_FAILED, step=0, remove_at=work.run.remove_at)
    except Exception as error:
        # Whatever keeps it from being recorded must not hide it: the exit code still tells.
        _log.error("the failure could not be recorded: %s", error)
