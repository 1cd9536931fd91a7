"""The leader's renewal of its run's lease."""

from __future__ import annotations

import logging
import time

from horovod_node import contract
from horovod_node.ledger.ledger import Lease, Ledger
from horovod_node.node.waiting import Interval

_log = logging.getLogger(__name__)


def renewal_seconds(settings: contract.RunSettings) -> float:
    """Return the time between two renewals: four may fail before the lease expires."""
    return max(1.0, settings.lease_seconds / 5)


class LeaseRenewal:
    """
    Renews the lease of one fleet when a renewal is due.

    Args:
        ledger: The ledger that holds the lease; a failed call is not repeated here.
        fleet: Name of the fleet, for the log.
        settings: The run's settings; `lease_seconds` is how long a renewal lasts.
    """

    def __init__(self, ledger: Ledger, *, fleet: str, settings: contract.RunSettings) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._lease_seconds = settings.lease_seconds
        self._due = Interval(renewal_seconds(settings))

    def renew(self, lease: Lease) -> None:
        """
        Renew *lease*, as it was just read, if a renewal is due.

        The write is conditional on the lease's expiry being unchanged. Whoever took or renewed the lease in the
        meantime wins, and the next check reads it again.

        Raises:
            LedgerUnreachableError: If the ledger does not answer; the renewal is then due again at once.
        """
        if not self._due.elapsed():
            return
        renewed = False
        try:
            renewed = self._ledger.renew_lease(lease, expires_at=int(time.time()) + self._lease_seconds)
        finally:
            if not renewed:
                self._due.expire_now()
        if not renewed:
            _log.info("the lease of fleet %s has changed since it was read", self._fleet)
