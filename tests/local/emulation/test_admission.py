"""The states that admit a run, as they are deployed, against the emulation's S3 and its execution."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from horovod_local import LocalCloud
from horovod_node import contract
from support.synthesis import REPOSITORY

SNAPSHOT = REPOSITORY / "tests" / "snapshots" / "run.asl.json"
DEFAULTS = {"data": {}, "hyperparameters": {}, "max_restarts": 2, "min_gpus": 4, "max_runtime_seconds": 60}

buckets = itertools.count()


def machine(name: str, *, tells: str) -> dict[str, Any]:
    """Make a machine of one state of the run's, which tells a variable in the end; an error it tells as an outcome."""
    state = json.loads(SNAPSHOT.read_text(encoding="utf-8"))["States"][name]
    catches = [{**catch, "Next": "Caught"} for catch in state["Catch"]]
    defaults = json.dumps(DEFAULTS)
    return {
        "StartAt": "Given",
        "States": {
            "Given": {
                "Type": "Pass",
                "Assign": {"request": f"{{% $merge([{defaults}, $states.input]) %}}", "times": {}},
                "Next": name,
            },
            name: {**state, "Catch": catches, "Next": "Tell"},
            "Tell": {"Type": "Pass", "Output": f"{{% {tells} %}}", "End": True},
            "Caught": {"Type": "Pass", "Output": "{% $outcome %}", "End": True},
        },
    }


def new_bucket(cloud: LocalCloud, keys: list[str]) -> str:
    """Make a bucket that holds *keys*."""
    bucket, s3 = f"admission-{next(buckets)}", cloud.client("s3")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": cloud.region})
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"" if key.endswith("/") else b"x")
    return bucket


FOLDERS = ["digits/", *(f"digits/{number:03}/" for number in range(250))]


@pytest.mark.parametrize(
    ("keys", "address", "there"),
    [
        (["digits/x"], "digits", True),
        (["digits/x"], "digits/", True),
        (["digits/x"], "dig", False),
        (["digits/x"], "", True),
        (["digits//x"], "digits//", True),
        (["digits.npz", "digits.npz.old"], "digits.npz", True),
        (["digits.npz.old"], "digits.npz", False),
        (["digits", "digits/"], "digits", True),
        (["digits"], "digits/", False),
        (["digits-old/x", "digits"], "digits", True),
        ([*FOLDERS[:13], "digits/x"], "digits", True),
        ([*FOLDERS, "digits/x"], "digits/", True),
        (FOLDERS, "digits", False),
        ([], "", False),
    ],
)
def test_data_is_looked_for_to_the_end(
    cloud: LocalCloud, machines: Any, keys: list[str], address: str, there: bool
) -> None:
    """A channel is empty only when no page of it holds a file, and it is no object either."""
    # GIVEN
    bucket = new_bucket(cloud, keys)
    uri = f"s3://{bucket}{address and '/'}{address}"

    # WHEN
    told = machines.output(machine("Check the data", tells="$problems"), {"data": {"train": uri}})

    # THEN
    assert told == ("" if there else f"'data.train' is empty: {uri} holds no object")


def test_numbers_are_recorded_as_they_were_written(machines: Any) -> None:
    """An expression takes the input's numbers for doubles; what is recorded has every digit, and the defaults."""
    # GIVEN
    given = {
        "gpus": 4,
        "max_restarts": 0,
        "hyperparameters": {"seed": 1764145000123456789, "rate": 0.1234567890123456, "odd": 10**18 + 1, "t": '{"é\\"'},
    }

    # WHEN
    recorded = machines.output(machine("Read the request", tells="$request_json"), given)
    seen = machines.output(machine("Read the request", tells="$string($request)"), given)

    # THEN
    assert json.loads(recorded) == {**DEFAULTS, **given}
    assert json.loads(seen)["hyperparameters"]["seed"] == 1764145000123460000
    # AND a request that leaves nothing out stays as it is
    whole = {**DEFAULTS, "gpus": 4}
    assert json.loads(machines.output(machine("Read the request", tells="$request_json"), whole)) == whole


def test_a_request_that_was_written_too_large_is_refused(machines: Any) -> None:
    """Digits that an expression drops count: the kernel would have to take them."""
    # GIVEN
    given = {"gpus": 4, "hyperparameters": {"many": [10**300] * 140}}

    # WHEN
    told = machines.output(machine("Read the request", tells="$request_json"), given)

    # THEN
    assert told == {
        "succeeded": False,
        "error": contract.ERROR_INVALID_REQUEST,
        "cause": contract.REQUEST_TOO_LARGE,
    }
