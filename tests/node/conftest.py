"""AWS on loopback, a node at work, and rings of real agents."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from horovod_local.corrections import dynamodb
from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.ledger import Run
from horovod_node.ledger.request_item import Request
from horovod_node.node.folders import Layout
from horovod_node.node.identity import Node
from support.node.emulated_aws import REGION, Aws, TaskAnswers
from support.node.rings import SETTINGS, Ring


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Serve AWS's APIs on loopback."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    # Agents read items while other agents write them.
    dynamodb.writes_are_atomic.install()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(endpoint: str) -> Aws:
    """Make an empty ledger, a data bucket and a model bucket."""
    mark = uuid.uuid4().hex[:12]
    cloud = Aws(endpoint=endpoint, table=f"ledger-{mark}", data_bucket=f"data-{mark}", model_bucket=f"model-{mark}")
    cloud.client("dynamodb").create_table(
        TableName=cloud.table,
        KeySchema=[
            {"AttributeName": contract.PARTITION_KEY, "KeyType": "HASH"},
            {"AttributeName": contract.SORT_KEY, "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": contract.PARTITION_KEY, "AttributeType": "S"},
            {"AttributeName": contract.SORT_KEY, "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    for bucket in (cloud.data_bucket, cloud.model_bucket):
        cloud.client("s3").create_bucket(Bucket=bucket)
    return cloud


@pytest.fixture
def answers() -> Iterator[TaskAnswers]:
    """Take the nodes' answers to the state machine."""
    server = TaskAnswers()
    yield server
    server.close()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Describe a node."""
    return Node(
        id="node-1",
        address="127.0.0.1",
        interface="lo",
        gpus=1,
        instance_type="g5.xlarge",
        zone="us-east-1a",
        market=contract.ON_DEMAND,
        fleet="fleet",
        ledger_table="ledger",
        region=REGION,
        ml_root=tmp_path / "ml",
        engine=contract.ENGINE_LOCAL,
    )


@pytest.fixture
def work(aws: Aws, answers: TaskAnswers, node: Node) -> NodeAttempt:
    """Put a node to work on attempt 1 of a run."""
    aws.put_lease(node.fleet, run="run-1")
    ledger = aws.ledger()
    lease = ledger.lease(node.fleet)
    assert lease is not None
    request = Request(
        source=f"s3://{aws.data_bucket}/source.tar.gz",
        entry_point="train.py",
        gpus=1,
        min_gpus=1,
        max_restarts=0,
        data={},
        hyperparameters={},
    )
    # So long that a slow test does not come to the next turn of what happens every few seconds.
    settings = replace(SETTINGS, model_bucket=aws.model_bucket, heartbeat_seconds=240, lease_seconds=600)
    layout = Layout(root=node.ml_root)
    layout.create()
    return NodeAttempt(
        node=node,
        lease=lease,
        run=Run(request=request, settings=settings, remove_at=0),
        layout=layout,
        ledger=ledger,
        s3=aws.client("s3"),
        stepfunctions=boto3.client("stepfunctions", endpoint_url=answers.endpoint, region_name=REGION),
    )


@pytest.fixture
def ring(aws: Aws, answers: TaskAnswers, tmp_path: Path) -> Iterator[Ring]:
    """Offer a ring; whatever it started is gone after the test."""
    ring = Ring(aws=aws, answers=answers, folder=tmp_path)
    yield ring
    ring.close()
