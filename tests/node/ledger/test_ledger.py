"""The ledger, as DynamoDB's API answers."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import boto3
import pytest
from botocore.config import Config

from horovod_node import __version__, contract
from horovod_node.ledger.cost_ceiling import CostCeiling
from horovod_node.ledger.ledger import Lease, Ledger, NodeItem, Run
from horovod_node.ledger.request_item import Request
from horovod_node.node.boot_facts import BootFacts
from horovod_node.node.errors import LedgerUnreachableError, RunError
from horovod_node.node.identity import Node
from horovod_node.node.interruption import Interruption
from horovod_node.transfer.requirements import Installation
from support.node.emulated_aws import REGION, Aws, id_of
from support.node.rings import SETTINGS

LEASE = Lease(
    fleet="fleet",
    run="run-1",
    run_id=id_of("run-1"),
    attempt=2,
    leader_market=contract.SPOT,
    expires_at=2_000_000_000,
    ends_by=2_000_003_600,
)


def test_lease_tells_who_holds_the_fleet(aws: Aws) -> None:
    """A fleet that nobody holds has no lease."""
    # GIVEN
    ledger = aws.ledger()
    before = ledger.lease("fleet")
    # WHEN
    aws.put_lease(
        "fleet",
        run="run-1",
        attempt=2,
        leader_market=contract.SPOT,
        expires_at=2_000_000_000,
        ends_by=2_000_003_600,
    )
    lease = ledger.lease("fleet")
    # THEN
    assert before is None
    assert lease is not None
    assert asdict(lease) == asdict(LEASE)


def test_lease_of_what_empties_a_fleet_is_no_runs(aws: Aws) -> None:
    """Clean-up and reaper hold a fleet under their own names, without an attempt."""
    # GIVEN
    aws.put(contract.lease_key("fleet"), **{contract.RUN: contract.REAPER, contract.EXPIRES_AT: 2_000_000_000})
    # WHEN
    lease = aws.ledger().lease("fleet")
    # THEN
    assert lease is not None
    assert [lease.holder, lease.attempt, lease.leader_market, lease.ends_by] == [contract.REAPER, 0, "", 0]


def test_renewed_lease_is_the_same_lease() -> None:
    """A run holds its fleet by name and attempt."""
    # WHEN / THEN
    assert replace(LEASE, expires_at=0, ends_by=0, leader_market=contract.ON_DEMAND) == LEASE
    assert replace(LEASE, attempt=3) != LEASE


def test_lease_is_renewed_only_as_it_was_read(aws: Aws) -> None:
    """Whoever changed the lease meanwhile wins; nothing but its expiry is touched."""
    # GIVEN
    ledger = aws.ledger()
    aws.put_lease("fleet", run="run-1", attempt=2, expires_at=1_000)
    read = ledger.lease("fleet")
    assert read is not None
    # WHEN
    renewed = [ledger.renew_lease(read, expires_at=expires_at) for expires_at in (2_000, 3_000)]
    # THEN
    assert renewed == [True, False]
    after = ledger.lease("fleet")
    assert after is not None
    assert asdict(after) == asdict(read) | {"expires_at": 2_000}


def test_lease_that_is_gone_is_not_renewed(aws: Aws) -> None:
    """A renewal makes no lease out of nothing."""
    # GIVEN
    ledger = aws.ledger()
    # WHEN
    renewed = ledger.renew_lease(LEASE, expires_at=3_000)
    # THEN
    assert [renewed, ledger.lease("fleet")] == [False, None]


def test_run_has_a_ceiling_when_its_prices_are_known(aws: Aws) -> None:
    """The state machine adds the prices to the run's item while the run is on its way."""
    # GIVEN
    ledger = aws.ledger()
    aws.put(contract.run_key(id_of("run-1")), **{contract.VERSION: contract.CONTRACT_VERSION})
    before = ledger.cost_ceiling(LEASE)
    # WHEN
    aws.put(
        contract.run_key(id_of("run-1")),
        **{
            contract.USD_PER_HOUR: 4.02,
            contract.BILLED_FROM: 1_000,
            contract.CEILING_USD: 12,
            contract.CEILING_AT: 11_746.25,
        },
    )
    # THEN
    assert before is None
    assert ledger.cost_ceiling(LEASE) == CostCeiling(usd_per_hour=4.02, billed_from=1_000, usd=12, at=11_746.25)


def test_run_tells_request_and_settings(aws: Aws) -> None:
    """The run's item is read as the state machine writes it."""
    # GIVEN
    request = {"source": "s3://bucket/source.tar.gz", "entry_point": "train.py", "gpus": 4.0}
    aws.put(
        contract.run_key(id_of("run-1")),
        **{
            contract.VERSION: contract.CONTRACT_VERSION,
            contract.REQUEST_JSON: json.dumps(request),
            contract.SETTINGS_JSON: json.dumps(asdict(SETTINGS)),
            contract.TTL_ATTRIBUTE: 2_000_000_000,
        },
    )
    # WHEN
    run = aws.ledger().run(LEASE)
    # THEN
    expected = Request(
        source="s3://bucket/source.tar.gz",
        entry_point="train.py",
        gpus=4,
        min_gpus=4,
        max_restarts=0,
        data={},
        hyperparameters={},
    )
    assert run == Run(request=expected, settings=SETTINGS, remove_at=2_000_000_000)


def test_fails_when_the_run_is_of_another_version(aws: Aws) -> None:
    """An image that does not fit the state machine says so instead of guessing."""
    # GIVEN
    aws.put(contract.run_key(id_of("run-1")), **{contract.VERSION: 99})
    # WHEN / THEN
    with pytest.raises(RunError, match="state machine version 99: deploy the stack and its image together"):
        aws.ledger().run(LEASE)


def test_node_is_refreshed_in_place(aws: Aws, node: Node) -> None:
    """A node has one item; refreshing it changes its state and step, and never when it joined."""
    # GIVEN
    ledger = aws.ledger()
    ledger.put_node(LEASE, node, state=contract.NODE_JOINED, step=0, remove_at=2_000_000_000)
    table = aws.client("dynamodb")
    (first,) = table.scan(TableName=aws.table)["Items"]
    # WHEN
    ledger.put_node(LEASE, node, state=contract.NODE_TRAINING, step=12, remove_at=2_000_000_000)
    # THEN
    (second,) = table.scan(TableName=aws.table)["Items"]
    assert second[contract.JOINED_AT] == first[contract.JOINED_AT]
    assert second[contract.TTL_ATTRIBUTE] == {"N": "2000000000"}
    expected = NodeItem(
        id="node-1",
        address="127.0.0.1",
        gpus=1,
        instance_type="g5.xlarge",
        zone="us-east-1a",
        market="on-demand",
        state=contract.NODE_TRAINING,
        step=12,
        seen_at=int(second[contract.SEEN_AT]["N"]),
    )
    assert ledger.nodes(LEASE) == [expected]
    assert ledger.node(LEASE, "node-1") == expected


def test_node_tells_how_it_came_up(aws: Aws, node: Node) -> None:
    """A node's item says what its boot script knew, when it first was ready, and with what library it trains."""
    # GIVEN
    ledger, table = aws.ledger(), aws.client("dynamodb")
    boot = BootFacts(booted_at=1_700_000_000.9, pull_began_at=1_700_000_020, pulled_at=1_700_000_080, image="node@sha")
    booted = replace(node, boot=boot)
    ledger.put_node(LEASE, booted, state=contract.NODE_READY, step=0, remove_at=0)
    (first,) = table.scan(TableName=aws.table)["Items"]

    # WHEN
    for state in (contract.NODE_TRAINING, contract.NODE_READY):
        ledger.put_node(LEASE, booted, state=state, step=1, remove_at=0)

    # THEN
    (item,) = table.scan(TableName=aws.table)["Items"]
    told = (contract.BOOTED_AT, contract.PULL_BEGAN_AT, contract.PULLED_AT, contract.IMAGE, contract.LIBRARY_VERSION)
    assert [item[name] for name in told] == [
        {"N": "1700000000"},
        {"N": "1700000020"},
        {"N": "1700000080"},
        {"S": "node@sha"},
        {"S": __version__},
    ]
    assert item[contract.READY_AT] == first[contract.READY_AT] == first[contract.SEEN_AT]


def test_node_tells_when_it_installed_requirements(aws: Aws, node: Node) -> None:
    """The times stay in the node's item when it is refreshed, for the receipt."""
    # GIVEN
    ledger = aws.ledger()
    installation = Installation(began_at=1_700_000_000.04, ended_at=1_700_000_012.5)

    # WHEN
    ledger.put_node(LEASE, node, state=contract.NODE_READY, step=0, remove_at=0, installation=installation)
    ledger.put_node(LEASE, node, state=contract.NODE_TRAINING, step=1, remove_at=0)

    # THEN
    (item,) = aws.client("dynamodb").scan(TableName=aws.table)["Items"]
    assert float(item[contract.INSTALL_BEGAN_AT]["N"]) == 1_700_000_000
    assert float(item[contract.INSTALLED_AT]["N"]) == 1_700_000_012.5


def test_node_that_knows_nothing_of_its_boot_says_nothing(aws: Aws, node: Node) -> None:
    """Times and image are left out where nobody told them, and a node that is not ready has no such time."""
    aws.ledger().put_node(LEASE, node, state=contract.NODE_JOINED, step=0, remove_at=0)

    (item,) = aws.client("dynamodb").scan(TableName=aws.table)["Items"]
    times = {contract.BOOTED_AT, contract.PULL_BEGAN_AT, contract.PULLED_AT, contract.READY_AT, contract.IMAGE}
    times |= {contract.INSTALL_BEGAN_AT, contract.INSTALLED_AT}
    assert times & item.keys() == set()


def test_progress_is_that_of_the_last_leader(aws: Aws) -> None:
    """What a leader told of the run is there for the next attempt's; before the first it is nothing."""
    # GIVEN
    ledger = aws.ledger()
    before = ledger.progress(LEASE)

    # WHEN
    ledger.put_progress(LEASE, json.dumps({"step": 7}), remove_at=0)

    # THEN
    assert (before, ledger.progress(LEASE)) == ({}, {"step": 7})


def test_interruption_stays_with_the_node(aws: Aws, node: Node) -> None:
    """A notice is written beside the rest, where a refresh that knows nothing of it leaves it."""
    # GIVEN
    ledger = aws.ledger()
    recommended = Interruption(kind=contract.INTERRUPTION_REBALANCE, at=1_900_000_000.7)
    announced = Interruption(kind=contract.INTERRUPTION_NOTICE, at=1_900_000_100.0, ends_at=1_900_000_220.0)
    seen = []
    # WHEN
    for interruption in (None, recommended, None, announced, None):
        ledger.put_node(LEASE, node, state=contract.NODE_TRAINING, step=1, remove_at=0, interruption=interruption)
        (item,) = ledger.nodes(LEASE)
        seen.append((item.interruption, item.interrupted_at))
    # THEN
    assert seen == [
        ("", 0),
        *[(contract.INTERRUPTION_REBALANCE, 1_900_000_000)] * 2,
        *[(contract.INTERRUPTION_NOTICE, 1_900_000_100)] * 2,
    ]


def test_nodes_are_those_of_the_attempt(aws: Aws, node: Node) -> None:
    """Neither another attempt's nodes nor another run's are listed, even where names begin alike."""
    # GIVEN
    ledger = aws.ledger()
    for lease, name in (
        (LEASE, "a"),
        (LEASE, "b"),
        (replace(LEASE, attempt=22), "c"),
        (replace(LEASE, run="run-11", run_id=id_of("run-11")), "d"),
    ):
        ledger.put_node(lease, replace(node, id=name), state=contract.NODE_READY, step=0, remove_at=0)
    # WHEN / THEN
    assert [item.id for item in ledger.nodes(LEASE)] == ["a", "b"]


def test_one_of_many_leads(aws: Aws) -> None:
    """Twenty nodes claim the lead at once: one gets it, and all agree on who."""
    # GIVEN
    ledgers = [aws.ledger() for _ in range(20)]
    # WHEN
    with ThreadPoolExecutor(20) as threads:
        leaders = list(
            threads.map(lambda number: ledgers[number].claim_leader(LEASE, f"node-{number}", remove_at=0), range(20))
        )
    # THEN
    assert len(set(leaders)) == 1
    assert ledgers[0].leader(LEASE) == leaders[0]


def test_leader_that_claims_again_still_leads(aws: Aws) -> None:
    """The answer of a claim that succeeded can get lost."""
    # GIVEN
    ledger = aws.ledger()
    ledger.claim_leader(LEASE, "node-1", remove_at=0)
    # WHEN / THEN
    assert ledger.claim_leader(LEASE, "node-1", remove_at=0) == "node-1"


def test_plan_and_tokens_are_there_once_they_are_written(aws: Aws) -> None:
    """What is not written yet is nothing, not an error."""
    # GIVEN
    ledger = aws.ledger()
    before = [ledger.leader(LEASE), ledger.plan(LEASE), ledger.task_token(LEASE, contract.TASK_SAVE)]
    # WHEN
    ledger.put_plan(LEASE, "{}", remove_at=0)
    aws.put(contract.task_key("fleet", id_of("run-1"), 2, contract.TASK_SAVE), **{contract.TOKEN: "a-token"})
    # THEN
    assert before == [None, None, None]
    assert [ledger.plan(LEASE), ledger.task_token(LEASE, contract.TASK_SAVE)] == ["{}", "a-token"]


def test_first_failure_of_a_node_stays(aws: Aws) -> None:
    """Later failures are consequences; they do not replace the first."""
    # GIVEN
    ledger = aws.ledger()
    # WHEN
    ledger.put_failure(LEASE, "node-1", "first", remove_at=0)
    ledger.put_failure(LEASE, "node-1", "second", remove_at=0)
    ledger.put_failure(LEASE, "node-2", "third", remove_at=0)
    # THEN
    assert ledger.failures(LEASE) == ["first", "third"]


def test_fails_when_the_ledger_stays_away() -> None:
    """A ledger that does not answer is asked again until patience ends, and then named."""
    # GIVEN a port at which nobody listens
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dynamodb = boto3.client(
            "dynamodb",
            endpoint_url=f"http://127.0.0.1:{closed.getsockname()[1]}",
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}),
        )
        ledger = Ledger(dynamodb, table="ledger", patience_seconds=0.8)
        # WHEN / THEN
        with pytest.raises(LedgerUnreachableError, match="DynamoDB table ledger, failed: Could not connect"):
            ledger.lease("fleet")
