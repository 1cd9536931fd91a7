"""Real agents, real ranks, real Horovod, a real model of real digits."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from dataclasses import replace

import pytest

from horovod_node import contract

from node.rings import SETTINGS, Ring, wait_for

pytestmark = [pytest.mark.ring, pytest.mark.timeout(180)]


def test_ring_trains_equal_weights_and_leaves_the_model(ring: Ring) -> None:
    """Two nodes train one model: equal weights on both ranks, the archive in S3, exit when released."""
    # GIVEN
    ring.submit(steps=30)
    # WHEN
    ring.start(nodes=2)
    formed = ring.asked(contract.TASK_RING)
    trained = ring.asked(contract.TASK_TRAIN)
    saved = ring.asked(contract.TASK_SAVE)
    # THEN
    assert [formed["leader"], formed["gpus"]] == [{"node": "node-1", "gpus": 1}, 2]
    assert [node["node"] for node in formed["nodes"]] == ["node-1", "node-2"]
    assert trained == {"ranks": 2, "steps": 30}
    archive = ring.aws.client("s3").get_object(Bucket=ring.aws.model_bucket, Key=contract.model_key(ring.run))
    assert saved == {"key": contract.model_key(ring.run), "bytes": archive["ContentLength"], "files": 2}
    with tarfile.open(fileobj=io.BytesIO(archive["Body"].read()), mode="r:gz") as tar:
        assert sorted(tar.getnames()) == ["model.keras", "proof.json"]
        proof = json.load(tar.extractfile("proof.json") or io.StringIO())
    assert proof["ranks"] == 2
    assert proof["difference"] == 0.0
    assert proof["norm"] > 0
    assert proof["arguments"] == ["--steps", "30"]
    # WHEN
    ring.release()
    # THEN
    assert [agent.exit_code() for agent in ring.agents] == [contract.EXIT_RELEASED] * 2
    assert [agent.processes() for agent in ring.agents] == [[], []]
