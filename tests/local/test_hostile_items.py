"""Items of the ledger that a script wrote: whatever is in them, they stop neither clean-up nor reaper."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from horovod_node import contract
from support.faults.lab import ONE, TWO, Lab, deployed_lab, until
from support.receipts import validate_receipt
from support.waiting import SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.local]

LONG = "x" * 300_000
"""More than Step Functions takes as a result."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with deployed_lab(tmp_path_factory) as lab:
        lab.switch("reaper", on=False)
        yield lab


def put(lab: Lab, key: tuple[str, str], **attributes: dict[str, Any]) -> None:
    """Write an item as a node's credentials could."""
    partition, sort = key
    lab.cloud.client("dynamodb").put_item(
        TableName=lab.app.training.connection.ledger_table,
        Item={contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}, **attributes},
    )


def node(name: str, **others: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Write what an honest node writes, with *others* in place of its own."""
    now = int(time.time())
    return {
        contract.NODE: {"S": name},
        contract.GPUS: {"N": "1"},
        contract.INSTANCE_TYPE: {"S": "g5.xlarge"},
        contract.MARKET: {"S": "spot"},
        contract.ZONE: {"S": "eu-west-1a"},
        contract.ADDRESS: {"S": "10.0.0.1"},
        contract.JOINED_AT: {"N": str(now - 3600)},
        contract.SEEN_AT: {"N": str(now - 1800)},
        **others,
    }


def clean_up(lab: Lab) -> str:
    """Find the clean-up's state machine."""
    machines = lab.cloud.client("stepfunctions").list_state_machines()["stateMachines"]
    return next(str(each["stateMachineArn"]) for each in machines if "CleanUp" in each["name"])


def test_clean_up_counts_what_can_be_counted(lab: Lab) -> None:
    """Of all that a script may put beside the nodes' items the receipt only says that it was left out."""
    # GIVEN a run that is over and holds a fleet
    connection = lab.app.training.connection
    fleet, started = connection.fleets[ONE].id, int(time.time()) - 4000
    run = f"{connection.queue}/dead-1/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started))}"
    execution = connection.execution_arn("dead-1")
    lease = {contract.RUN: {"S": "dead-1"}, contract.EXECUTION: {"S": execution}, contract.EXPIRES_AT: {"S": LONG}}
    put(lab, contract.lease_key(fleet), **lease)
    price = {"instance_type": "g5.xlarge", "market": "spot", "zone": "eu-west-1a", "usd": 0.5}
    put(
        lab,
        contract.run_key(run),
        **{
            contract.FLEET: {"S": fleet},
            contract.STAGE: {"S": contract.STAGE_TRAINING},
            contract.PRICES_JSON: {"S": json.dumps([price])},
        },
    )
    # AND items of honest nodes, in two attempts of which the second is the twelfth, and of a script
    for attempt in (2, 12):
        for name in ("i-0a", "i-0b"):
            put(lab, contract.node_key(fleet, run, attempt, name), **node(name))
    put(lab, contract.leader_key(fleet, run, 12), **{contract.NODE: {"S": "i-0a"}})
    put(lab, contract.progress_key(fleet, run), **{contract.PROGRESS_JSON: {"S": "{ no JSON"}})
    broken: list[dict[str, dict[str, Any]]] = [
        node("i-long", **{contract.ZONE: {"S": LONG}}),
        node("i-text", **{contract.GPUS: {"S": "1"}}),
        node("i-huge", **{contract.GPUS: {"N": "9E+125"}}),
        node("i-late", **{contract.SEEN_AT: {"N": "9E+125"}}),
        node("i-list", **{contract.ADDRESS: {"L": [{"S": "10.0.0.1"}]}}),
        node("i-odd\x1b[31m"),
        {contract.NODE: {"S": "i-bare"}},
    ]
    for number, attributes in enumerate(broken):
        put(lab, contract.node_key(fleet, run, 13, f"i-{number}"), **attributes)
    # AND more items than fit into a page, each as large as is let through, with the longest keys
    control = {name: {"S": "\x01" * 32} for name in (contract.ZONE, contract.INSTANCE_TYPE)}
    for number in range(60):
        attributes = node("\x01" * 40, **control, **{contract.IMAGE: {"S": "\x01" * 400}})
        put(lab, contract.node_key(fleet, run, 14, f"i-{number:03}" + "x" * 900), **attributes)
    # WHEN the event of its end comes
    detail = {
        "executionArn": execution,
        "name": "dead-1",
        "status": "ABORTED",
        "startDate": started * 1000,
        "stopDate": int(time.time()) * 1000,
        "input": '{"gpus": 2}',
        "error": None,
        "cause": None,
    }
    stepfunctions = lab.cloud.client("stepfunctions")
    arn = stepfunctions.start_execution(
        stateMachineArn=clean_up(lab), input=json.dumps({"source": "aws.states", "detail": detail})
    )["executionArn"]
    # THEN the clean-up comes to its end
    assert until(2 * SECONDS, lambda: stepfunctions.describe_execution(executionArn=arn)["status"] != "RUNNING")
    described = stepfunctions.describe_execution(executionArn=arn)
    assert described["status"] == "SUCCEEDED", (described["error"], described["cause"])
    assert lab.app.lease(ONE) is None
    # AND the receipt has the honest nodes, and says what it has not
    body = lab.cloud.client("s3").get_object(Bucket=connection.model_bucket, Key=contract.receipt_key(run))["Body"]
    receipt = json.loads(body.read())
    validate_receipt(receipt)
    assert (receipt["written_by"], receipt["error"], receipt["attempts"]) == ("clean-up", contract.ERROR_ABORTED, 12)
    assert {each["node"] for each in receipt["nodes"]} == {"i-0a", "i-0b"}
    assert receipt["cost"]["usd"] > 0
    assert receipt["leader"] == "i-0a"
    assert receipt["partial"] == (
        "67 of the items in the ledger were too large or malformed. The ledger could not be read to the end."
    )
    written = lab.app.item(contract.run_key(run)) or {}
    assert (written[contract.STAGE]["S"], int(written[contract.RECEIPT_AT]["N"]) > 0) == (contract.STAGE_FAILED, True)


def test_reaper_frees_what_nobody_owns(lab: Lab) -> None:
    """A lease without an owner, or one that no state machine can have written, goes; it hides no other fleet."""
    # GIVEN one that a node made up on a free fleet, and one that is too large to be read
    one, two = (lab.app.training.connection.fleets[fleet].id for fleet in (ONE, TWO))
    put(lab, contract.lease_key(one), **{contract.EXPIRES_AT: {"N": "9999999999"}})
    put(lab, contract.lease_key(two), **{contract.EXECUTION: {"S": LONG}, contract.EXPIRES_AT: {"S": "never"}})
    # WHEN
    lab.switch("reaper", on=True)
    # THEN
    assert until(SECONDS, lambda: lab.app.lease(ONE) is None and lab.app.lease(TWO) is None)
    lab.switch("reaper", on=False)
