"""The agent's life: join, lead or follow, join again when its run restarts, leave; when it does so is its conduct's."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NoReturn

from horovod_node import contract
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.checkpoints.restore import Restored, restore
from horovod_node.elastic.elastic_follower import ElasticFollower
from horovod_node.elastic.elastic_leader import ElasticLeader
from horovod_node.ledger.ledger import Lease, Ledger
from horovod_node.node.background import in_background
from horovod_node.node.conduct import Conduct, EndsWithItsPart, Part, Turn
from horovod_node.node.errors import (
    FinishedError,
    LedgerUnreachableError,
    PartOverError,
    ReleasedError,
    RunError,
    exit_code,
)
from horovod_node.node.failure import NodeFailedError, as_failure, as_run_error
from horovod_node.node.folders import Layout
from horovod_node.node.identity import Node
from horovod_node.node.interruption import InterruptionWatch
from horovod_node.node.log_shipping import LogShipping
from horovod_node.node.rank_output import RankOutput, print_line
from horovod_node.rank_process.preflight import NOT_ELASTIC, installed_keras, is_elastic, refusal
from horovod_node.ring.static_follower import Follower
from horovod_node.ring.static_leader import StaticLeader
from horovod_node.transfer.data_channels import fetch_channels
from horovod_node.transfer.requirements import Installation, Requirements
from horovod_node.transfer.source import fetch_source

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient

_log = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""
How long a node of another market waits for one of the leader's market to claim the lead. In a run's first attempt both
boot at the same time.
"""
_LOOK_SECONDS = 0.5


class Agent:
    """
    Takes part in the run that holds the node's fleet.

    Args:
        node: This node.
        ledger: The ledger, with calls repeated while DynamoDB is unreachable.
        s3: boto3 client.
        stepfunctions: boto3 client.
        conduct: The engine's rules for this node. Default: those of EC2.
        shipping: Told the run and the node once they are known. Default: nothing is shipped.
        output: Receives the lines that ranks print. Default: they are printed among the agent's own.
    """

    def __init__(
        self,
        node: Node,
        *,
        ledger: Ledger,
        s3: S3Client,
        stepfunctions: SFNClient,
        conduct: Conduct | None = None,
        shipping: LogShipping | None = None,
        output: RankOutput = print_line,
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._s3 = s3
        self._stepfunctions = stepfunctions
        self._conduct = conduct or EndsWithItsPart()
        self._shipping = shipping
        self._output = output
        self._layout = Layout(root=node.ml_root)
        self._requirements = Requirements(node, layout=self._layout)
        self._fetched: Future[Installation | None] | None = None
        # One for all attempts: a notice concerns the node.
        self._watch = InterruptionWatch.of(node, os.environ)
        self._restoring = Lock()
        self._lease_seconds = 0

    def take_part(self) -> int:
        """
        Take part from joining to leaving, in every attempt of the run for which this node is still there.

        This is the one boundary between the user's failures and ours. Every exception raised inside becomes an answer
        to the state machine or a record in the ledger, a failure file, and one of the contract's exit codes.

        Returns:
            The process's exit code.
        """
        self._watch.start()
        try:
            return self._take_part()
        finally:
            self._requirements.stop()

    def _take_part(self) -> int:
        last: Part | None = None
        try:
            while (lease := self._next_lease(last)) is not None:
                last = self._take_part_in(lease)
                self._conduct.end(last)
        except Exception as error:
            last = _give_up(as_run_error(error), lease=None)
        return self._conduct.leave(last, ledger=self._ledger)

    def _next_lease(self, last: Part | None) -> Lease | None:
        """
        Wait for the next attempt of which this node is a part.

        Args:
            last: The part that it took last; `None` for none.

        Returns:
            The lease that names the attempt; `None` if the node must leave.

        Raises:
            LedgerUnreachableError: If the ledger cannot be reached before this node's first part.
        """
        ledger = self._ledger if last is None else self._ledger.with_patience(0)
        waiting = False
        heard_at = time.monotonic()
        while True:
            try:
                lease = ledger.lease(self._node.fleet)
                heard_at = time.monotonic()
            except LedgerUnreachableError:
                if last is None or last.lease is None:
                    raise
                # It is taken to be what it was, for as long as a lease lasts.
                rest = heard_at + self._lease_seconds - time.monotonic()
                lease = replace(last.lease, expires_at=int(time.time() + rest) + 1) if rest > 0 else None
            notice = self._watch.interruption
            turn = self._conduct.turn(lease, last=last, is_going=notice is not None and notice.is_final)
            if turn is Turn.JOIN:
                return lease
            holder = lease.holder if lease else "nobody"
            if turn is Turn.LEAVE:
                # After a part the reason is known.
                if last is None:
                    _log.info("leaving: %s holds fleet %s", holder, self._node.fleet)
                return None
            if not waiting:
                _log.info("waiting: %s holds fleet %s", holder, self._node.fleet)
            waiting = True
            time.sleep(_LOOK_SECONDS)

    def _take_part_in(self, lease: Lease) -> Part:
        """Take part in the attempt that *lease* names, from joining to the end of this node's part."""
        try:
            self._conduct.begin(lease)
            work = self._join(lease)
        except ReleasedError as reason:
            return _released(reason, lease=lease, is_last=True)
        except Exception as error:
            return replace(_give_up(as_run_error(error), lease=lease), is_last=True)
        try:
            self._lead_or_follow(work)
        except ReleasedError as reason:
            return _released(reason, lease=lease)
        except PartOverError as reason:
            _log.info("this node's part is over: %s", reason)
            return Part(lease=lease, code=contract.EXIT_PART_OVER, reason=str(reason), is_last=True, succeeded=True)
        except Exception as error:
            failed = as_run_error(error)
            part = _give_up(failed, lease=lease)
            _leave_failed(work, failed)
            return part

    def _join(self, lease: Lease) -> NodeAttempt:
        """
        Find out which run the node works for.

        Raises:
            ReleasedError: If the lease names no run.
            RunError: If the run needs another version of this agent.
        """
        node = self._node
        if self._shipping is not None and lease.attempt:
            self._shipping.join(run=lease.run, node=node.id)
        run = self._ledger.run(lease) if lease.run_id else None
        if run is None:
            raise ReleasedError(f"{lease.run}, which holds fleet {node.fleet}, has no run item in the ledger")
        self._lease_seconds = run.settings.lease_seconds
        _log.info("%s joins attempt %d of run %s", node.id, lease.attempt, lease.run)
        return NodeAttempt(
            node=node,
            lease=lease,
            run=run,
            layout=self._layout,
            ledger=self._ledger,
            s3=self._s3,
            stepfunctions=self._stepfunctions,
            conduct=self._conduct,
            output=self._output,
            shipping=self._shipping,
        )

    def _lead_or_follow(self, work: NodeAttempt) -> NoReturn:
        """
        Do the node's part of the attempt; this always ends with an exception.

        Raises:
            ReleasedError: If the fleet was released, or the attempt was given up.
            PartOverError: If the run continues without this node.
            RunError: If the attempt failed.
        """
        if self._fetched is None:
            work.layout.create()
        else:
            work.layout.renew()
        if self._fetched is None or (self._fetched.done() and self._fetched.exception()):
            # The download failed in the previous attempt and may succeed now.
            self._fetched = in_background(lambda: prepare(work, self._requirements, os.environ))
        fetched = self._fetched
        prepared = in_background(lambda: self._restore(work, fetched))
        membership = Membership(work, watch=self._watch, fetched=fetched)
        membership.keep()
        elastic = work.run.request.is_elastic
        leader = elect(work, membership)
        if leader == work.node.id:
            membership.lead()
            (ElasticLeader if elastic else StaticLeader)(work, membership).lead(prepared)
        if elastic:
            ElasticFollower(work, membership).follow(prepared)
        Follower(work, membership, leader=leader).follow(prepared)

    def _restore(self, work: NodeAttempt, fetched: Future[Installation | None]) -> Restored | None:
        """Wait for the script and the data, then download the checkpoint that this attempt resumes from."""
        fetched.result()
        # The restore of an attempt that was given up may still be running.
        with self._restoring:
            return restore(
                work.s3,
                layout=work.layout,
                bucket=work.run.settings.model_bucket,
                run_id=work.lease.run_id,
                resume_from=work.run.request.resume_from,
            )


def prepare(work: NodeAttempt, requirements: Requirements, environment: Mapping[str, str]) -> Installation | None:
    """
    Download the script, check that it can train in this image, install its requirements, and download the data.

    The data comes last because it may take hours: a script that cannot succeed must fail before that.

    Returns:
        When the script's requirements were installed; `None` if it has none.

    Raises:
        RunError: If a download fails, the preflight refuses the script, or its requirements cannot be installed.
    """
    request, layout = work.run.request, work.layout
    started = time.monotonic()
    layout.renew_code()
    fetch_source(work.s3, uri=request.source, entry_point=request.entry_point, into=layout.code)
    source = (layout.code / request.entry_point).read_text(errors="replace")
    reason = refusal(source, installed_keras(environment))
    if reason is None and request.is_elastic and not is_elastic(source):
        reason = NOT_ELASTIC
    if reason is not None:
        raise RunError(contract.ERROR_PREFLIGHT, f"{request.entry_point} was not started. {reason}")
    _log.info("fetched the script in %.1f s", time.monotonic() - started)
    installation = requirements.install()
    started = time.monotonic()
    received = fetch_channels(work.s3, data=request.data, layout=layout)
    _log.info("fetched %s bytes of data in %.1f s", f"{received:,}", time.monotonic() - started)
    return installation


def grace_seconds(work: NodeAttempt) -> float:
    """
    Return how long a node of another market waits for one of the leader's market to claim the lead.

    When a run restarts, its new leader's instance may be launched while the others already run, and takes a minute or
    two to boot.
    """
    return GRACE_SECONDS if work.lease.attempt == 1 else 2.0 * work.run.settings.heartbeat_seconds


def elect(work: NodeAttempt, membership: Membership) -> str:
    """
    Return the attempt's leader. This node claims the lead at once if it is of the leader's market, otherwise later.

    A node that cannot prepare still leads if no other does: some node must report the reason to the state machine.
    """
    patience = 0.0 if work.node.market == work.lease.leader_market else grace_seconds(work)
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


def _released(reason: ReleasedError, *, lease: Lease, is_last: bool = False) -> Part:
    _log.info("leaving: %s", reason)
    return Part(
        lease=lease,
        code=contract.EXIT_RELEASED,
        reason=f"{reason}.",
        is_last=is_last,
        succeeded=isinstance(reason, FinishedError),
    )


def _give_up(failed: RunError, *, lease: Lease | None) -> Part:
    reason, code = f"{failed.error}: {failed.message}", exit_code(failed.error)
    _log.error("%s", reason)
    # A script that failed would fail again. A rank that only lost its peers did nothing wrong.
    lost_others = isinstance(failed, NodeFailedError) and failed.failure.origin == "ring"
    is_last = code != contract.EXIT_NODE_FAILED and not lost_others
    return Part(lease=lease, code=code, reason=reason, is_last=is_last)


def _leave_failed(work: NodeAttempt, failed: RunError) -> None:
    """Record the failure: in the ledger for the leader, and in SageMaker's failure file for people."""
    failure = as_failure(failed, node=work.node.id, address=work.node.address)
    ledger = work.ledger.with_patience(0)
    # The ledger comes first: the run waits for it, and a full disk must not prevent the record.
    records: tuple[Callable[[], object], ...] = (
        lambda: ledger.put_failure(work.lease, work.node.id, failure.to_json(), remove_at=work.run.remove_at),
        lambda: ledger.put_node(
            work.lease, work.node, state=contract.NODE_FAILED, step=0, remove_at=work.run.remove_at
        ),
        lambda: _tell_people(work.layout.failure, f"{failed.error}: {failed.message}\n"),
    )
    for record in records:
        try:
            record()
        except Exception as error:
            # An error here must not hide the failure: the exit code still reports it.
            _log.error("the failure could not be recorded: %s", error)


def _tell_people(file: Path, reason: str) -> None:
    """Write *reason* to SageMaker's failure file, unless the script has written it."""
    with contextlib.suppress(FileExistsError), file.open("x", encoding="utf-8", errors="backslashreplace") as words:
        words.write(reason)
