"""The leader's renewal of its run's lease: as long as it goes on, the run lives."""

from __future__ import annotations

import logging
import time

from horovod_node import contract
from horovod_node.ledger.ledger import Lease, Ledger
from horovod_node.node.waiting import Interval

_log = logging.getLogger(__name__)


def renewal_seconds(settings: contract.RunSettings) -> float:
    """Give the time between two renewals: four may fail before the lease expires."""
    return max(1.0, settings.lease_seconds / 5)


class LeaseRenewal:
    """
    Renews the lease of one fleet, when that is due.

    Args:
        ledger: Where the lease is; a call that fails is not repeated here.
        fleet: The fleet.
        settings: The run's settings: for how long a renewal is good.
    """

    def __init__(self, ledger: Ledger, *, fleet: str, settings: contract.RunSettings) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._lease_seconds = settings.lease_seconds
        self._due = Interval(renewal_seconds(settings))

    def renew(self, lease: Lease) -> None:
        """
        Renew the node's own *lease*, as it was read just now, if it is time.

        Only one who saw the lease as it is may change it: whatever took it or renewed it meanwhile wins, and the next
        turn looks again.

        Raises:
            LedgerUnreachableError: If the ledger does not answer; it is due again at once.
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
