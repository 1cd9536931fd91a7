"""The ledger as a node sees it: one lease, one run, the nodes of one attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horovod_node import __version__, contract
from horovod_node.ledger.cost_ceiling import CostCeiling
from horovod_node.ledger.request_item import Request
from horovod_node.ledger.table import LedgerTable, item_key, removal
from horovod_node.node.boot_facts import BootFacts
from horovod_node.node.errors import LedgerUnreachableError, RunError
from horovod_node.node.identity import Node
from horovod_node.node.interruption import Interruption
from horovod_node.transfer.requirements import Installation


@dataclass(frozen=True, kw_only=True)
class Lease:
    """
    A run's hold on the fleet. Leases of the same run and attempt are equal, however often they were renewed.

    Args:
        fleet: Name of the fleet.
        run: Name of the run, or `contract.CLEAN_UP` or `contract.REAPER` while one of these empties the fleet.
        run_id: Id of the run; empty while the fleet is emptied.
        attempt: Number of the run's attempt, from 1; 0 while the fleet is emptied.
        leader_market: Market of the run's leaders, one of the contract's `MARKETS`; may be empty without a run.
        expires_at: Epoch seconds at which the lease expires.
        ends_by: Epoch seconds of the run's hard maximum.
    """

    fleet: str
    run: str
    run_id: str
    attempt: int
    leader_market: str = field(compare=False)
    expires_at: int = field(compare=False)
    ends_by: int = field(compare=False)

    @property
    def holder(self) -> str:
        """The holder, in words for people."""
        return f"attempt {self.attempt} of run {self.run}" if self.attempt else self.run


@dataclass(frozen=True, kw_only=True)
class Run:
    """
    The run's item.

    Args:
        request: The user's request.
        settings: The settings that the construct chose.
        remove_at: DynamoDB's time to live of the run's items, in epoch seconds; 0 for never.
    """

    request: Request
    settings: contract.RunSettings
    remove_at: int


Pace = tuple[int, float, float]
"""Step timing of a rank: its number, the seconds per step that it computes, and those that it waits for the others."""


@dataclass(frozen=True, kw_only=True)
class NodeItem:
    """
    A node's ledger item, as the other nodes read it.

    Args:
        id: The node's name.
        address: IPv4 address.
        gpus: Ranks that fit on the node.
        instance_type: EC2 instance type.
        zone: Availability zone.
        market: One of the contract's `MARKETS`.
        state: One of the contract's `NODE_STATES`.
        step: Training steps of the node's slowest rank.
        seen_at: When the node last wrote the item, epoch seconds by its own clock.
        interruption: The notice that the node received, one of the contract's `INTERRUPTIONS`; empty for none.
        interrupted_at: When it received the notice, epoch seconds by its own clock; 0 for none.
        pace: Step timing of each of its ranks, as far as known.
    """

    id: str
    address: str
    gpus: int
    instance_type: str
    zone: str
    market: str
    state: str
    step: int
    seen_at: int
    interruption: str = ""
    interrupted_at: int = 0
    pace: tuple[Pace, ...] = ()


class Ledger(LedgerTable):
    """Reads and writes the ledger's items."""

    def with_patience(self, seconds: float) -> Ledger:
        """Return the same ledger, with failed calls repeated for *seconds* only; 0 means a single call."""
        return Ledger(self._dynamodb, table=self._table, patience_seconds=seconds)

    def lease(self, fleet: str) -> Lease | None:
        """Read the lease of *fleet*; return `None` if there is none."""
        item = self._read(contract.lease_key(fleet))
        if item is None:
            return None
        holder = item[contract.RUN]["S"]
        emptied = holder in (contract.CLEAN_UP, contract.REAPER)
        return Lease(
            fleet=fleet,
            run=holder,
            # Clean-up and reaper leave the id of the run that held the fleet; that run is over.
            run_id="" if emptied else _text(item, contract.RUN_ID) or "",
            attempt=_whole(item, contract.ATTEMPT),
            leader_market=_text(item, contract.LEADER_MARKET) or "",
            expires_at=_whole(item, contract.EXPIRES_AT),
            ends_by=_whole(item, contract.ENDS_BY),
        )

    def renew_lease(self, lease: Lease, *, expires_at: int) -> bool:
        """
        Set the expiry of *lease*, provided that it is unchanged since it was read; return `False` if it is not.

        The condition fails for a lease that is gone, so this never creates one without an owner. It also fails for a
        lease that was taken in the meantime, because taking a lease sets a later expiry. The condition names only
        `expires_at`, because a node has permission for no other attribute: `dynamodb:Attributes` covers attributes in
        conditions as well as written ones (DynamoDB Developer Guide, "Using IAM policy conditions for fine-grained
        access control").
        """
        return self._meets_its_condition(
            lambda: self._dynamodb.update_item(
                TableName=self._table,
                Key=item_key(contract.lease_key(lease.fleet)),
                UpdateExpression="SET #expires_at = :new",
                ConditionExpression="#expires_at = :read",
                ExpressionAttributeNames={"#expires_at": contract.EXPIRES_AT},
                ExpressionAttributeValues={":new": {"N": str(expires_at)}, ":read": {"N": str(lease.expires_at)}},
            )
        )

    def run(self, lease: Lease) -> Run | None:
        """
        Read the item of the run that holds *lease*.

        Raises:
            RunError: If the state machine uses another version of the contract than this image.
        """
        item = self._read(contract.run_key(lease.run_id))
        if item is None:
            return None
        version = item[contract.VERSION]["N"]
        if version != str(contract.CONTRACT_VERSION):
            raise RunError(
                contract.ERROR_NODE_FAILED,
                f"The training image uses version {contract.CONTRACT_VERSION} of the contract, the state machine "
                f"version {version}: deploy the stack and its image together.",
            )
        return Run(
            request=Request.from_json(item[contract.REQUEST_JSON]["S"]),
            settings=contract.RunSettings(**json.loads(item[contract.SETTINGS_JSON]["S"])),
            remove_at=int(item[contract.TTL_ATTRIBUTE]["N"]) if contract.TTL_ATTRIBUTE in item else 0,
        )

    def cost_ceiling(self, lease: Lease) -> CostCeiling | None:
        """Read the run's cost ceiling; return `None` until the state machine has written it."""
        item = self._read(contract.run_key(lease.run_id))
        if item is None or contract.CEILING_AT not in item:
            return None
        return CostCeiling(
            usd_per_hour=float(item[contract.USD_PER_HOUR]["N"]),
            billed_from=float(item[contract.BILLED_FROM]["N"]),
            usd=float(item[contract.CEILING_USD]["N"]),
            at=float(item[contract.CEILING_AT]["N"]),
        )

    def restarts(self, lease: Lease) -> int:
        """Return how often the run had been restarted when its current attempt began."""
        item = self._read(contract.run_key(lease.run_id))
        return len(json.loads(_text(item, contract.RESTARTS_JSON) or "[]"))

    def put_node(
        self,
        lease: Lease,
        node: Node,
        *,
        state: str,
        step: int,
        remove_at: int,
        interruption: Interruption | None = None,
        pace: Sequence[Pace] = (),
        installation: Installation | None = None,
        leaves: bool = False,
    ) -> None:
        """
        Create or refresh the node's item; without an *interruption* a recorded one is kept.

        With *leaves* the item records that the node is no longer part of the run.
        """
        now = {"N": str(int(time.time()))}
        values: dict[str, Any] = {
            contract.NODE: {"S": node.id},
            contract.ADDRESS: {"S": node.address},
            contract.GPUS: {"N": str(node.gpus)},
            contract.INSTANCE_TYPE: {"S": node.instance_type},
            contract.ZONE: {"S": node.zone},
            contract.MARKET: {"S": node.market},
            contract.STATE: {"S": state},
            contract.STEP: {"N": str(step)},
            contract.SEEN_AT: now,
            contract.LIBRARY_VERSION: {"S": __version__},
            **_boot_attributes(node.boot),
            **removal(remove_at),
        }
        if interruption is not None:
            values[contract.INTERRUPTION] = {"S": interruption.kind}
            values[contract.INTERRUPTED_AT] = {"N": str(int(interruption.at))}
        if leaves:
            values[contract.LEFT_AT] = now
        if installation is not None:
            values[contract.INSTALL_BEGAN_AT] = {"N": f"{installation.began_at:.1f}"}
            values[contract.INSTALLED_AT] = {"N": f"{installation.ended_at:.1f}"}
        if pace:
            values[contract.PACE_JSON] = {"S": json.dumps(pace)}
        assignments = [f"#{name} = :{name}" for name in values]
        firsts = [contract.JOINED_AT, *([contract.READY_AT] if state == contract.NODE_READY else [])]
        assignments += [f"#{name} = if_not_exists(#{name}, :{contract.SEEN_AT})" for name in firsts]
        self._ask(
            lambda: self._dynamodb.update_item(
                TableName=self._table,
                Key=item_key(contract.node_key(lease.fleet, lease.run_id, lease.attempt, node.id)),
                UpdateExpression="SET " + ", ".join(assignments),
                ExpressionAttributeNames={f"#{name}": name for name in (*values, *firsts)},
                ExpressionAttributeValues={f":{name}": value for name, value in values.items()},
            )
        )

    def nodes(self, lease: Lease) -> list[NodeItem]:
        """List the nodes that ever joined this attempt."""
        prefix = contract.node_key(lease.fleet, lease.run_id, lease.attempt, "")
        return [_node_item(item) for item in self._list(prefix)]

    def node(self, lease: Lease, node: str) -> NodeItem | None:
        """Read the item of one node."""
        item = self._read(contract.node_key(lease.fleet, lease.run_id, lease.attempt, node))
        return None if item is None else _node_item(item)

    def claim_leader(self, lease: Lease, node: str, *, remove_at: int) -> str:
        """Make *node* the leader unless there is one already; return the leader's name."""
        written = self._write_once(
            contract.leader_key(lease.fleet, lease.run_id, lease.attempt),
            {contract.NODE: {"S": node}, **removal(remove_at)},
        )
        if written:
            return node
        leader = self.leader(lease)
        if leader is None:
            raise LedgerUnreachableError(f"the leader item of run {lease.run} was removed from the ledger")
        return leader

    def leader(self, lease: Lease) -> str | None:
        """Return the name of the node that leads, once there is one."""
        item = self._read(contract.leader_key(lease.fleet, lease.run_id, lease.attempt))
        return _text(item, contract.NODE)

    def task_token(self, lease: Lease, task: contract.Task) -> str | None:
        """Read the token of *task*, once the state machine has written it."""
        item = self._read(contract.task_key(lease.fleet, lease.run_id, lease.attempt, task))
        return _text(item, contract.TOKEN)

    def put_plan(self, lease: Lease, plan: str, *, remove_at: int) -> None:
        """Publish the ring's plan (`RingPlan.to_text`)."""
        item = {contract.PLAN: {"S": plan}, **removal(remove_at)}
        key = item_key(contract.plan_key(lease.fleet, lease.run_id, lease.attempt))
        self._ask(lambda: self._dynamodb.put_item(TableName=self._table, Item={**key, **item}))

    def plan(self, lease: Lease) -> str | None:
        """Read the ring's plan, once the leader has published it."""
        item = self._read(contract.plan_key(lease.fleet, lease.run_id, lease.attempt))
        return _text(item, contract.PLAN)

    def put_channel(self, lease: Lease, channel: str, *, remove_at: int) -> None:
        """Publish where the leader of an elastic ring accepts connections, as JSON."""
        item = {contract.CHANNEL_JSON: {"S": channel}, **removal(remove_at)}
        key = item_key(contract.channel_key(lease.fleet, lease.run_id, lease.attempt))
        self._ask(lambda: self._dynamodb.put_item(TableName=self._table, Item={**key, **item}))

    def channel(self, lease: Lease) -> str | None:
        """Read where the leader accepts connections, once it has published that."""
        return _text(self._read(contract.channel_key(lease.fleet, lease.run_id, lease.attempt)), contract.CHANNEL_JSON)

    def progress(self, lease: Lease) -> dict[str, Any]:
        """Read the run's last recorded progress; empty if there is none."""
        facts: dict[str, Any] = json.loads(
            _text(self._read(contract.progress_key(lease.fleet, lease.run_id)), contract.PROGRESS_JSON) or "{}"
        )
        return facts

    def put_progress(self, lease: Lease, progress: str, *, remove_at: int) -> None:
        """Write the run's progress, as JSON; the write is dropped if a later attempt has written its own."""
        key = contract.progress_key(lease.fleet, lease.run_id)
        self._meets_its_condition(
            lambda: self._dynamodb.put_item(
                TableName=self._table,
                Item={
                    **item_key(key),
                    contract.PROGRESS_JSON: {"S": progress},
                    contract.ATTEMPT: {"N": str(lease.attempt)},
                    **removal(remove_at),
                },
                ConditionExpression="attribute_not_exists(#attempt) OR #attempt <= :attempt",
                ExpressionAttributeNames={"#attempt": contract.ATTEMPT},
                ExpressionAttributeValues={":attempt": {"N": str(lease.attempt)}},
            )
        )

    def put_failure(self, lease: Lease, node: str, failure: str, *, remove_at: int) -> None:
        """Record the first failure that *node* saw, as JSON; later ones are dropped."""
        self._write_once(
            contract.failure_key(lease.fleet, lease.run_id, lease.attempt, node),
            {
                contract.NODE: {"S": node},
                contract.FAILURE_JSON: {"S": failure},
                contract.FAILED_AT: {"N": str(int(time.time()))},
                **removal(remove_at),
            },
        )

    def failures(self, lease: Lease) -> list[str]:
        """List the failures that nodes of this attempt recorded."""
        prefix = contract.failure_key(lease.fleet, lease.run_id, lease.attempt, "")
        return [item[contract.FAILURE_JSON]["S"] for item in self._list(prefix)]


def _boot_attributes(boot: BootFacts) -> dict[str, Any]:
    times = {
        contract.BOOTED_AT: boot.booted_at,
        contract.PULL_BEGAN_AT: boot.pull_began_at,
        contract.PULLED_AT: boot.pulled_at,
    }
    written = {name: {"N": str(int(at))} for name, at in times.items() if at is not None}
    texts = {contract.IMAGE: boot.image, contract.CONTAINER: boot.container}
    return written | {name: {"S": text} for name, text in texts.items() if text}


def _node_item(item: Mapping[str, Any]) -> NodeItem:
    return NodeItem(
        id=item[contract.NODE]["S"],
        address=item[contract.ADDRESS]["S"],
        gpus=int(item[contract.GPUS]["N"]),
        instance_type=item[contract.INSTANCE_TYPE]["S"],
        zone=item[contract.ZONE]["S"],
        market=item[contract.MARKET]["S"],
        state=item[contract.STATE]["S"],
        step=int(item[contract.STEP]["N"]),
        seen_at=int(item[contract.SEEN_AT]["N"]),
        interruption=_text(item, contract.INTERRUPTION) or "",
        interrupted_at=_whole(item, contract.INTERRUPTED_AT),
        pace=tuple(
            (rank, compute, wait) for rank, compute, wait in json.loads(_text(item, contract.PACE_JSON) or "[]")
        ),
    )


def _text(item: Mapping[str, Any] | None, attribute: str) -> str | None:
    return None if item is None or attribute not in item else str(item[attribute]["S"])


def _whole(item: Mapping[str, Any], attribute: str) -> int:
    return int(item[attribute]["N"]) if attribute in item else 0
