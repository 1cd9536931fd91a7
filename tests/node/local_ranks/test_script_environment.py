"""What a script reads is what SageMaker's training toolkit would have given it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from horovod_node.ledger.request_item import Request
from horovod_node.local_ranks.script_environment import script_arguments, script_environment, write_config
from horovod_node.node.folders import Layout
from horovod_node.node.identity import Node

HYPERPARAMETERS: dict[str, Any] = {
    "learning-rate": 0.001,
    "epochs": 3,
    "augment": True,
    "optimizer": "adam",
    "layers": [32, 64],
    "sizes": {"train": 0.8, "test": 0.2},
    "resume": None,
    "b": 7,
    "sagemaker_program": "other.py",
    "_tuning_objective_metric": "loss",
}
REQUEST = Request(
    source="s3://bucket/source.tar.gz",
    entry_point="train.py",
    gpus=2,
    min_gpus=2,
    max_restarts=0,
    data={"train": "s3://bucket/train/", "my-data": "s3://bucket/more/"},
    hyperparameters=HYPERPARAMETERS,
)
ARGUMENTS = [
    *("--augment", "True"),
    *("-b", "7"),
    *("--epochs", "3"),
    *("--layers", "[32, 64]"),
    *("--learning-rate", "0.001"),
    *("--optimizer", "adam"),
    *("--resume", ""),
    *("--sizes", "test=0.2,train=0.8"),
]


@pytest.mark.parametrize(
    ("hyperparameters", "arguments"),
    [
        ({}, []),
        (HYPERPARAMETERS, ARGUMENTS),
        ({"tiny": 1e-05, "text": "a b"}, ["--text", "a b", "--tiny", "1e-05"]),
    ],
)
def test_arguments_are_spelled_as_the_toolkit_spells_them(
    hyperparameters: dict[str, Any], arguments: list[str]
) -> None:
    """Sorted, one dash for one letter, objects as pairs, null as an empty text, Python's True."""
    assert script_arguments(hyperparameters) == arguments


def test_environment_has_every_variable_of_the_toolkit(node: Node) -> None:
    """Names, spellings and JSON are the toolkit's."""
    # GIVEN
    node = replace(node, gpus=4, address="10.0.0.2")
    layout = Layout(root=node.ml_root)
    root = str(node.ml_root)
    # WHEN
    variables = script_environment(
        request=REQUEST, node=node, layout=layout, hosts=["10.0.0.1", "10.0.0.2"], run="run-1"
    )
    # THEN
    training_env = json.loads(variables.pop("SM_TRAINING_ENV"))
    assert {name: value for name, value in variables.items() if not name.startswith("SM_INSTANCE_GROUP")} == {
        "SM_CHECKPOINT_DIR": f"{root}/checkpoints",
        "SM_CHANNELS": '["my-data","train"]',
        "SM_CHANNEL_MY-DATA": f"{root}/input/data/my-data",
        "SM_CHANNEL_TRAIN": f"{root}/input/data/train",
        "SM_CURRENT_HOST": "10.0.0.2",
        "SM_CURRENT_INSTANCE_GROUP": "homogeneousCluster",
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": '["10.0.0.1","10.0.0.2"]',
        "SM_CURRENT_INSTANCE_TYPE": "g5.xlarge",
        "SM_DISTRIBUTION_INSTANCE_GROUPS": '["homogeneousCluster"]',
        "SM_FRAMEWORK_MODULE": "",
        "SM_FRAMEWORK_PARAMS": '{"_tuning_objective_metric":"loss","sagemaker_program":"other.py"}',
        "SM_HOSTS": '["10.0.0.1","10.0.0.2"]',
        "SM_HPS": (
            '{"augment":true,"b":7,"epochs":3,"layers":[32,64],"learning-rate":0.001,"optimizer":"adam",'
            '"resume":null,"sizes":{"test":0.2,"train":0.8}}'
        ),
        "SM_HP_AUGMENT": "true",
        "SM_HP_B": "7",
        "SM_HP_EPOCHS": "3",
        "SM_HP_LAYERS": "[32,64]",
        "SM_HP_LEARNING-RATE": "0.001",
        "SM_HP_OPTIMIZER": "adam",
        "SM_HP_RESUME": "",
        "SM_HP_SIZES": '{"test":0.2,"train":0.8}',
        "SM_INPUT_CONFIG_DIR": f"{root}/input/config",
        "SM_INPUT_DATA_CONFIG": json.dumps(
            {
                name: {
                    "RecordWrapperType": "None",
                    "S3DistributionType": "FullyReplicated",
                    "TrainingInputMode": "File",
                }
                for name in ("my-data", "train")
            },
            separators=(",", ":"),
        ),
        "SM_INPUT_DIR": f"{root}/input",
        "SM_IS_HETERO": "false",
        "SM_LOG_LEVEL": "20",
        "SM_MODEL_DIR": f"{root}/model",
        "SM_MODULE_DIR": "s3://bucket/source.tar.gz",
        "SM_MODULE_NAME": "train",
        "SM_NETWORK_INTERFACE_NAME": "lo",
        "SM_NUM_CPUS": str(os.cpu_count()),
        "SM_NUM_GPUS": "4",
        "SM_OUTPUT_DATA_DIR": f"{root}/output/data",
        "SM_OUTPUT_DIR": f"{root}/output",
        "SM_OUTPUT_INTERMEDIATE_DIR": f"{root}/output/intermediate",
        "SM_RESOURCE_CONFIG": (
            '{"current_group_name":"homogeneousCluster","current_host":"10.0.0.2",'
            '"current_instance_type":"g5.xlarge","hosts":["10.0.0.1","10.0.0.2"],'
            '"instance_groups":[{"hosts":["10.0.0.1","10.0.0.2"],"instance_group_name":"homogeneousCluster",'
            '"instance_type":"g5.xlarge"}],"network_interface_name":"lo"}'
        ),
        "SM_TENSORBOARD_DIR": f"{root}/output/tensorboard",
        "SM_USER_ARGS": json.dumps(ARGUMENTS, separators=(",", ":")),
        "SM_USER_ENTRY_POINT": "train.py",
    }
    assert training_env["job_name"] == "run-1"
    assert training_env["is_master"] is False
    assert training_env["master_hostname"] == "10.0.0.1"
    assert training_env["channel_input_dirs"]["train"] == f"{root}/input/data/train"


def test_config_files_are_there(node: Node) -> None:
    """The three files of `input/config` hold what SageMaker puts into them."""
    # GIVEN
    layout = Layout(root=node.ml_root)
    layout.create()
    # WHEN
    write_config(request=REQUEST, node=node, layout=layout, hosts=["127.0.0.1"])
    # THEN
    files = {path.stem: json.loads(path.read_text()) for path in layout.config.iterdir()}
    assert sorted(files) == ["hyperparameters", "inputdataconfig", "resourceconfig"]
    assert files["hyperparameters"]["epochs"] == "3"
    assert files["hyperparameters"]["optimizer"] == "adam"
    assert files["resourceconfig"]["hosts"] == ["127.0.0.1"]
    assert sorted(files["inputdataconfig"]) == ["my-data", "train"]
