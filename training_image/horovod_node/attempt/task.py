"""
Task tokens that the leader answers: it sends heartbeats for a token, then success or failure.

The state machine may issue another token for the same task: for the ring in each attempt of its capacity plan, and
whenever it could not be sure that the first token was written. So an expired token does not end the attempt; only the
loss of the lease does. The state machine passes the lease to the next attempt, or takes it back when it gives the
attempt up. An execution that was stopped does neither. The lease then expires, because a leader renews it only while it
knows of an open token.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.node.errors import LedgerUnreachableError, ReleasedError, RunError
from horovod_node.node.failure import cause_text
from horovod_node.node.waiting import Interval, wait, wait_until

_log = logging.getLogger(__name__)

TOKEN_POLL_SECONDS = 0.2
"""Time between two polls for a token; the state machine writes one within a second of the previous answer."""
ANSWER_PATIENCE_SECONDS = 300.0
"""How long an answer is retried: without it, a whole training may be lost."""
_ERROR_LIMIT = 256
"""Longest error name, in characters, that Step Functions accepts (SendTaskFailure)."""


class Task:
    """
    One task of the state machine that waits for this node's answer.

    Args:
        work: The node's part in the attempt.
        membership: Refreshed while this waits.
        name: The task.
    """

    def __init__(self, work: NodeAttempt, membership: Membership, *, name: contract.Task) -> None:
        self.name = name
        self._work = work
        self._membership = membership
        self._ledger = work.ledger.with_patience(0)
        self._token: str | None = None
        self._gone: str | None = None
        self._look = Interval(TOKEN_POLL_SECONDS)
        self._beat = Interval(work.run.settings.heartbeat_seconds / 4)

    @property
    def is_asked(self) -> bool:
        """Whether a token of this task has been read."""
        return self._token is not None or self._gone is not None

    def heartbeat(self) -> None:
        """Report progress to the state machine, at most four times per heartbeat timeout."""
        if self._has_token() and self._beat.elapsed():
            try:
                self._work.stepfunctions.send_task_heartbeat(taskToken=self._token or "")
            except ClientError as error:
                if not self._is_gone(error):
                    _log.warning("heartbeat of '%s' failed: %s", self.name, error)
            except BotoCoreError as error:
                _log.warning("heartbeat of '%s' failed: %s", self.name, error)

    def succeed(self, output: Mapping[str, Any]) -> None:
        """Answer with *output*, a JSON object; wait for a token if there is none yet."""
        text = json.dumps(output)
        self._answer(lambda token: self._work.stepfunctions.send_task_success(taskToken=token, output=text))
        _log.info("answered '%s': %s", self.name, text)

    def fail(self, error: str, message: str) -> None:
        """Answer that the run cannot succeed, with one of the contract's errors and a cause for people."""
        cause = cause_text(message)
        self._answer(
            lambda token: self._work.stepfunctions.send_task_failure(
                taskToken=token, error=error[:_ERROR_LIMIT], cause=cause
            )
        )
        _log.info("answered '%s': %s", self.name, error)

    def _has_token(self) -> bool:
        if self._token is None and self._look.elapsed():
            try:
                token = self._ledger.task_token(self._work.lease, self.name)
                self._token = None if token == self._gone else token
                self._membership.is_asked = self._token is not None
            except LedgerUnreachableError as error:
                _log.warning("could not read the token of '%s': %s", self.name, error)
        return self._token is not None

    def _answer(self, send: Callable[[str], object]) -> None:
        self._wait_for_token()
        give_up_at = time.monotonic() + ANSWER_PATIENCE_SECONDS
        pause = 0.5
        while True:
            try:
                send(self._token or "")
            except (ClientError, BotoCoreError) as error:
                if isinstance(error, ClientError) and self._is_gone(error):
                    self._wait_for_token()
                    # Waiting for a new token does not count against the retry time.
                    give_up_at = time.monotonic() + ANSWER_PATIENCE_SECONDS
                    continue
                if time.monotonic() > give_up_at:
                    raise RunError(
                        contract.ERROR_NODE_FAILED,
                        f"Step Functions did not accept the answer to '{self.name}': {error}",
                    ) from error
                _log.warning("answer to '%s' failed, next try in %.1f s: %s", self.name, pause, error)
                wait(pause, tick=self._membership.keep)
                pause = min(2 * pause, 10.0)
            else:
                self._membership.is_asked = False
                return

    def _wait_for_token(self) -> None:
        wait_until(self._has_token, tick=self._keep_waiting)

    def _keep_waiting(self) -> None:
        self._membership.keep()
        if self._gone is not None and self._work.conduct.stops_at is not None:
            raise ReleasedError(f"this node was told to stop, and nobody asks for '{self.name}' any more")

    def _is_gone(self, error: ClientError) -> bool:
        """Whether the token is no longer valid; if so, drop it, so that the next one is polled for."""
        if error.response["Error"]["Code"] not in contract.TOKEN_GONE:
            return False
        self._gone, self._token = self._token, None
        self._membership.is_asked = False
        return True
