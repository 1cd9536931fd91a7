"""Starting a run: what is checked, uploaded and started, in that order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from horovod_client import InvalidInput, ScriptDoubtful, TrainingClient
from horovod_client.submit.source import package_source
from horovod_node import contract
from support.fake_account import Account


def test_starts_the_run_that_was_asked_for(account: Account, client: TrainingClient, script: Path, data: str) -> None:
    """Every argument arrives in the execution's input, and the code in the data bucket, before the run is started."""
    # GIVEN
    before = contract.checkpoints_of(client.connection.queue, "digits-before")
    account.s3.put_object(
        Bucket=client.connection.model_bucket,
        Key=f"{before}20261126T110236Z/manifest.json",
    )

    # WHEN
    run = client.fit(
        script,
        gpus=8,
        min_gpus=4,
        data={"train": data, "test": data},
        hyperparameters={"epochs": 3, "rates": [0.1, 0.01], "name": "ü"},
        max_runtime=timedelta(hours=2),
        max_cost_usd=12.5,
        max_restarts=0,
        resume_from="digits-before",
        name="digits-all",
    )

    # THEN
    package = package_source(script)
    key = contract.source_key(package.digest)
    assert run.name == "digits-all"
    assert account.request(run.execution_arn) == {
        "source": f"s3://{client.connection.data_bucket}/{key}",
        "entry_point": "train.py",
        "gpus": 8,
        "data": {"train": data, "test": data},
        "hyperparameters": {"epochs": 3, "rates": [0.1, 0.01], "name": "ü"},
        "max_runtime_seconds": 7200,
        "min_gpus": 4,
        "max_cost_usd": 12.5,
        "max_restarts": 0,
        "resume_from": "digits-before",
    }
    assert account.read(client.connection.data_bucket, key) == package.archive


def test_leaves_out_what_was_not_given(account: Account, client: TrainingClient, script: Path) -> None:
    """The request has no defaults, because the state machine applies them."""
    # WHEN
    run = client.fit(script, gpus=4)

    # THEN
    assert set(account.request(run.execution_arn)) == {"source", "entry_point", "gpus"}


def test_gives_one_address_the_channel_of_sagemaker(
    account: Account, client: TrainingClient, script: Path, data: str
) -> None:
    """Data without a name is the channel `training`, as it is on SageMaker."""
    # WHEN
    run = client.fit(script, gpus=4, data=data)

    # THEN
    assert account.request(run.execution_arn)["data"] == {"training": data}


def test_names_runs_after_the_script(client: TrainingClient, tmp_path: Path) -> None:
    """A run without a name is named after its script, and no two get the same name."""
    # GIVEN
    script = tmp_path / "train.digits.py"
    script.write_text("")

    # WHEN
    names = [client.fit(script, gpus=4).name for _ in range(2)]

    # THEN
    assert all(re.fullmatch(r"train-digits-\d{8}-\d{6}-[0-9a-f]{6}", name) for name in names)
    assert names[0] != names[1]


def test_uploads_the_same_code_once(account: Account, client: TrainingClient, script: Path) -> None:
    """A second run of the same code finds it in the bucket and leaves it as it is."""
    # GIVEN
    client.fit(script, gpus=4)
    bucket, key = client.connection.data_bucket, contract.source_key(package_source(script).digest)
    account.s3.put_object(Bucket=bucket, Key=key, Body=b"what was there")

    # WHEN
    client.fit(script, gpus=8)

    # THEN
    assert account.read(bucket, key) == b"what was there"


def test_returns_the_exact_request_of_a_dry_run(
    account: Account, client: TrainingClient, script: Path, data: str
) -> None:
    """A dry run returns StartExecution's arguments; nothing is uploaded or started, and the arguments work."""
    # GIVEN
    before = account.keys(client.connection.data_bucket), account.runs()

    # WHEN
    arguments = client.fit(script, gpus=4, data={"train": data}, max_cost_usd=2, name="digits-dry", dry_run=True)

    # THEN
    assert (account.keys(client.connection.data_bucket), account.runs()) == before
    assert arguments == {
        "stateMachineArn": account.state_machine,
        "name": "digits-dry",
        "input": json.dumps(
            {
                "source": f"s3://{client.connection.data_bucket}/{contract.source_key(package_source(script).digest)}",
                "entry_point": "train.py",
                "gpus": 4,
                "data": {"train": data},
                "max_cost_usd": 2,
            },
            separators=(",", ":"),
        ),
    }
    account.stepfunctions.start_execution(**arguments)
    assert "digits-dry" in account.runs()


def test_starts_the_same_run_once(client: TrainingClient, script: Path) -> None:
    """The same request under the same name, while it runs, is the same run: a retry costs nothing."""
    # WHEN
    runs = [client.fit(script, gpus=4, name="digits-once") for _ in range(2)]

    # THEN
    assert runs[0] == runs[1]
    assert runs[0].status().state == "RUNNING"


def test_fails_when_the_name_is_taken(client: TrainingClient, script: Path) -> None:
    """Another request under a name that is taken is refused."""
    # GIVEN
    client.fit(script, gpus=4, name="digits-taken")

    # THEN
    with pytest.raises(
        InvalidInput, match=r"^'name' must be new, but there is already a run 'digits-taken': choose another"
    ):
        client.fit(script, gpus=8, name="digits-taken")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gpus": 20}, "'gpus' must be a multiple of 4 up to 16, got 20"),
        ({"gpus": 6}, "'gpus' must be a multiple of 4 up to 16, got 6"),
        ({"gpus": "4"}, "'gpus' must be a whole number, got 4"),
        ({"gpus": 0, "max_runtime": timedelta(0)}, "'max_runtime' must be from 1 s to 24 h 0 min, this"),
        (
            {"gpus": 0, "max_restarts": 21},
            "'gpus' must be at least 1, got 0; 'max_restarts' must be at most 20, got 21",
        ),
        ({"max_runtime": timedelta(seconds=1.5)}, "'max_runtime_seconds' must be a whole number, got 1.5"),
        ({"max_runtime": timedelta(days=2)}, "'max_runtime' must be from 1 s to 24 h 0 min, this training's limit"),
        ({"min_gpus": 8}, "'min_gpus' must be at most 'gpus', which is 4, got 8"),
        ({"max_restarts": 21}, "'max_restarts' must be at most 20, got 21"),
        ({"resume_from": "no run"}, "'resume_from' must be a run's name, got no run"),
        ({"resume_from": "never"}, "'resume_from' must be a run that left a checkpoint, got 'never': s3://"),
        ({"max_cost_usd": 0}, "'max_cost_usd' must be more than 0, got 0"),
        ({"max_cost_usd": 500.5}, "'max_cost_usd' must be at most 500, got 500.5"),
        ({"max_cost_usd": "5"}, "'max_cost_usd' must be a number, got 5"),
        ({"max_cost_usd": float("inf")}, "'max_cost_usd' must be a finite number, got inf"),
        (
            {"hyperparameters": [1]},
            r"'hyperparameters' must be a dict of names and values, like \{'epochs': 3\}, got \[1\]$",
        ),
        (
            {"hyperparameters": {"b": 1, "a": float("nan")}},
            "'hyperparameters.a' must be a finite number, because JSON has no other",
        ),
        ({"max_cost_usd": float("nan")}, "'max_cost_usd' must be a finite number, got nan"),
        (
            {"hyperparameters": {"a": {1, 2}}},
            r"'hyperparameters.a' must be a JSON value \(.*\), got \{1, 2\}, a set: convert it$",
        ),
        ({"hyperparameters": {"a": [{1, 2}]}}, "'hyperparameters.a' cannot be written as JSON: Object of type set"),
        (
            {"hyperparameters": {"a": "\ud800"}},
            r"'hyperparameters.a' must be text that UTF-8 can encode, got '.ud800'$",
        ),
        ({"hyperparameters": {("a", 1): 2}}, "'hyperparameters' cannot be written as JSON: keys must be str"),
        (
            {"data": ["s3://a/b/", "s3://a/c/"]},
            r"'data' must be an address like s3://bucket/folder/, or a dict .* \{'train': .*\}, got \['s3://a/b/', 's",
        ),
        (
            {"project": "Größe"},
            r"'project' must be 1 to 128 letters \(a-z, A-Z\), digits, spaces and any of .*, got Grö",
        ),
        (
            {"hyperparameters": {"a": "x" * 262_144}},
            "the request must be at most 40000 bytes of JSON in UTF-8",
        ),
        (
            {"data": {"train": "/tmp"}},
            "'data.train' must be in S3, got the local path '/tmp': copy it there, .* with aws s3 sync /tmp s3:",
        ),
        (
            {"data": Path("/etc/passwd")},
            "'data.training' must be in S3, got the local path '/etc/passwd': copy .* with aws s3 cp /etc/passwd s3://",
        ),
        ({"data": {"train": "s3:/bucket/x"}}, "'data.train' must be an address like s3://bucket/folder/, got 's3:/bu"),
        ({"data": {"train": ""}}, "'data.train' must be an address like s3://bucket/folder/, got ''"),
        (
            {"data": {"train": "gs://bucket/digits"}},
            "'data.train' must be an address like s3://bucket/folder/, got",
        ),
        ({"data": {"two words": "s3://bucket/key"}}, "'data' has a channel named two words; use letters"),
        ({"data": {"train": "s3://no-such-bucket/digits"}}, "'data.train' is in a bucket that does not exist: s3:"),
        ({"name": "two words"}, "'name' must be 1 to 80 letters .a-z, A-Z., digits, '-' and '_', got 'two words'"),
        ({"name": ""}, "'name' must be 1 to 80 letters .a-z, A-Z., digits, '-' and '_', got ''"),
        (
            {"code": "import os\ndef f(:\n"},
            "'entry_point' must be Python, but 'train.py' has an error in line 2: invalid",
        ),
        ({"code": "nul\0"}, "'entry_point' must be Python, but 'train.py' has an error: source code string cannot con"),
        (
            {"entry_point": "/etc/passwd"},
            "'entry_point' must be a Python file with the suffix .py, got 'passwd'$",
        ),
        ({"entry_point": "missing.py"}, "cannot read 'missing.py': No such file or directory"),
    ],
)
def test_fails_before_anything_is_made(
    account: Account, client: TrainingClient, script: Path, changes: dict[str, Any], sentence: str
) -> None:
    """A request that cannot run is refused in one sentence, before anything is uploaded or started."""
    # GIVEN
    before = account.keys(client.connection.data_bucket), account.runs()
    arguments: dict[str, Any] = {"entry_point": script, "gpus": 4} | changes
    script.write_text(arguments.pop("code", ""))

    # WHEN
    with pytest.raises(InvalidInput, match=f"^{sentence}"):
        client.fit(**arguments)

    # THEN
    assert (account.keys(client.connection.data_bucket), account.runs()) == before


def test_fails_when_data_is_missing(account: Account, client: TrainingClient, script: Path, data: str) -> None:
    """A prefix without objects is named with its channel, even where the other channels are fine."""
    # GIVEN
    before = account.keys(client.connection.data_bucket), account.runs()
    empty = data.replace("digits", "letters")

    # WHEN
    with pytest.raises(InvalidInput, match=f"^'data.test' is empty: {empty} holds no object$"):
        client.fit(script, gpus=4, data={"train": data, "test": empty})

    # THEN
    assert (account.keys(client.connection.data_bucket), account.runs()) == before


def test_leaves_data_to_the_state_machine_that_the_user_may_not_list(
    account: Account, client: TrainingClient, script: Path, data: str
) -> None:
    """Data that the user may not list is not refused, because the state machine looks for itself."""
    # GIVEN
    statements = [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": "s3:ListBucket", "Resource": "*"},
    ]
    user = TrainingClient(client.connection, session=account.sign_in("submitter", statements))

    # WHEN
    with account.permissions_enforced():
        with pytest.raises(ClientError, match="AccessDenied"):
            user.clients.s3.list_objects_v2(Bucket=client.connection.data_bucket)
        run = user.fit(script, gpus=4, data={"train": data})

    # THEN
    assert account.request(run.execution_arn)["data"] == {"train": data}


def test_packages_the_folder_of_a_script(
    account: Account, client: TrainingClient, write_files: Callable[[dict[str, str]], Path]
) -> None:
    """The entry point of a folder is the path inside of it."""
    # GIVEN
    folder = write_files({"jobs/train.py": "import model", "model.py": "", ".gitignore": "*.h5", "old.h5": ""})

    # WHEN
    run = client.fit("jobs/train.py", source_dir=folder, gpus=4)

    # THEN
    request = account.request(run.execution_arn)
    digest = package_source("jobs/train.py", source_dir=folder).digest
    assert request["entry_point"] == "jobs/train.py"
    assert request["source"] == f"s3://{client.connection.data_bucket}/{contract.source_key(digest)}"


def test_script_that_may_train_in_vain_is_started_with_a_warning(
    account: Account, client: TrainingClient, script: Path
) -> None:
    """A doubtful script is started, and the command prints the warning as a line of its own."""
    # GIVEN
    script.write_text(f"print({str(script)!r}, 'trained')\n")
    # WHEN
    with pytest.warns(ScriptDoubtful) as warned:
        run = client.fit(script, gpus=4, model_required=False)
    # THEN
    assert [str(each.message).partition(":")[0] for each in warned] == ["'train.py' does not name Horovod"]
    assert run.name in account.runs()
