"""How a client finds the training of a stack."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from horovod_client import Connection, ConnectionNotFound, Fleet, TrainingClient
from horovod_client.aws.connection import find_connection
from horovod_node import contract
from support.fake_account import STACK, Account, connection_output


def test_finds_the_only_training_of_a_stack(account: Account) -> None:
    """The output that is described as a connection is read, and others are ignored."""
    # WHEN
    connection = find_connection(account.cloudformation, stack_name=STACK)

    # THEN
    resources = account.cloudformation.describe_stack_resources(StackName=STACK)["StackResources"]
    names = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in resources}
    assert connection == Connection(
        state_machine=account.state_machine,
        data_bucket=names["Data"],
        model_bucket=names["Models"],
        ledger_table=names["Ledger"],
        queue="Training",
        log_group="/training/nodes",
        fleets=(
            Fleet(
                id="TrainingFleet",
                max_gpus=16,
                gpu_step=4,
                group="TrainingGroup",
                types={"g5.12xlarge": 4, "g4dn.12xlarge": 4},
            ),
        ),
        max_runtime_seconds=86_400,
        max_cost_usd=500,
    )


def test_knows_every_fleet_and_may_have_no_ceiling() -> None:
    """The fleets come in the order of the output; a training without a ceiling says nothing of one."""
    # GIVEN
    values = {
        "version": contract.CONTRACT_VERSION,
        "state_machine": "arn",
        "data_bucket": "data",
        "model_bucket": "models",
        "ledger_table": "ledger",
        "queue": "queue",
        "log_group": "/training/nodes",
        "fleets": [
            {"fleet": "Big", "max_gpus": 64, "gpu_step": 8, "group": "b", "types": {"p4d.24xlarge": 8}},
            {"fleet": "Small", "max_gpus": 4, "gpu_step": 1, "group": "s", "types": {"g5.xlarge": 1}},
        ],
        "max_runtime_seconds": 60,
    }

    # WHEN
    connection = Connection.from_json(json.dumps(values))

    # THEN
    assert connection.fleets == (
        Fleet(id="Big", max_gpus=64, gpu_step=8, group="b", types={"p4d.24xlarge": 8}),
        Fleet(id="Small", max_gpus=4, gpu_step=1, group="s", types={"g5.xlarge": 1}),
    )
    assert (connection.max_cost_usd, connection.priced_types) == (None, None)
    priced = Connection.from_json(json.dumps({**values, "priced_types": ["g5.xlarge"]})).priced_types
    assert priced == {"g5.xlarge"}


def test_has_one_field_for_each_key_of_the_contract() -> None:
    """Every key of the contract's connection is a field of the client's."""
    # GIVEN
    keys = {value for name, value in vars(contract).items() if name.startswith("CONNECTION_")}
    of_a_fleet = {
        contract.CONNECTION_FLEET,
        contract.CONNECTION_MAX_GPUS,
        contract.CONNECTION_GPU_STEP,
        contract.CONNECTION_ENGINE,
        contract.CONNECTION_GROUP,
        contract.CONNECTION_JOB_PREFIX,
        contract.CONNECTION_ELASTIC,
        contract.CONNECTION_TYPES,
    }
    of_the_output = {contract.CONNECTION_DESCRIPTION, contract.CONNECTION_VERSION}
    # THEN
    assert keys - of_a_fleet - of_the_output == {f.name for f in fields(Connection)}
    assert of_a_fleet == {"fleet" if f.name == "id" else f.name for f in fields(Fleet)}


def test_names_region_and_execution() -> None:
    """Region and executions follow from the state machine's ARN, even where its own name looks like one."""
    # GIVEN
    connection = Connection(
        state_machine="arn:aws:states:eu-west-1:123456789012:stateMachine:TrainingRun",
        data_bucket="data",
        model_bucket="models",
        ledger_table="ledger",
        queue="queue",
        log_group="logs",
        fleets=(Fleet(id="fleet", max_gpus=4, gpu_step=1),),
        max_runtime_seconds=60,
    )

    # THEN
    assert connection.region == "eu-west-1"
    assert connection.execution_arn("digits-1") == (
        "arn:aws:states:eu-west-1:123456789012:execution:TrainingRun:digits-1"
    )


def test_chooses_between_several_trainings_by_output(account: Account) -> None:
    """A stack with two trainings asks for a choice, names both, and takes either."""
    # GIVEN
    account.deploy(
        "Two", {"Vision": connection_output(queue="VisionQueue"), "Speech": connection_output(queue="SpeechQueue")}
    )

    # THEN
    with pytest.raises(
        ConnectionNotFound, match=r"^stack 'Two' has 2 trainings: choose one with 'output', one of Speech, Vision$"
    ):
        TrainingClient.from_stack("Two")
    with pytest.raises(
        ConnectionNotFound,
        match=r"^'output' must be a training of stack 'Two', one of Speech, Vision, got 'Sight'$",
    ):
        TrainingClient.from_stack("Two", output="Sight")
    assert TrainingClient.from_stack("Two", output="Vision").connection.queue == "VisionQueue"


def test_fails_when_the_stack_has_no_training(account: Account) -> None:
    """The error for a stack without a connection says what was looked for."""
    # GIVEN
    account.deploy("Website", {"Url": {"Value": "{}"}})

    # THEN
    with pytest.raises(
        ConnectionNotFound, match=r"^stack 'Website' has no training: none of its outputs has the description"
    ):
        TrainingClient.from_stack("Website")


def test_fails_when_there_is_no_such_stack() -> None:
    """The error for a stack that does not exist names it and the Region that was searched."""
    with pytest.raises(
        ConnectionNotFound, match=r"^there is no stack 'Nowhere' in eu-west-1: check its name and AWS_REGION$"
    ):
        TrainingClient.from_stack("Nowhere")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "the stack's output is not a connection of cdk-horovod"),
        ("[]", "the stack's output is not a connection of cdk-horovod"),
        (json.dumps({"version": contract.CONTRACT_VERSION}), "the stack's output is not a connection of cdk-horovod"),
        (
            json.dumps({"version": 9}),
            "the stack has version 9 and this client supports version 4: install the cdk-horovod",
        ),
    ],
)
def test_fails_when_the_output_cannot_be_read(text: str, sentence: str) -> None:
    """A connection of another release, or none at all, is refused in one sentence."""
    with pytest.raises(ConnectionNotFound, match=f"^{sentence}"):
        Connection.from_json(text)
