"""
The environment of a script written for SageMaker's script mode: `SM_*` variables, arguments, files in `input/config`.

Names and spellings are those of aws/sagemaker-training-toolkit (`environment.py`, `mapping.py`, `params.py`), so that
the script runs unchanged. Values that exist only in SageMaker, such as the job's ARN, are left out. There is always one
instance group.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from horovod_node.ledger.request_item import Request
from horovod_node.node.folders import Layout
from horovod_node.node.identity import Node

_RESERVED_PREFIX = "sagemaker_"
_RESERVED_NAMES = ("_tuning_objective_metric",)
"""Hyperparameters that are meant for the toolkit, not for the script."""
_LOG_LEVEL_INFO = 20
_INSTANCE_GROUP = "homogeneousCluster"
"""SageMaker's name for the only instance group of a job that defines none."""


def script_arguments(hyperparameters: Mapping[str, Any]) -> list[str]:
    """
    Return hyperparameters as the script's arguments: `--name value`, sorted by name.

    A name of one letter gets one dash. An object becomes `key=value,key=value`, null becomes an empty argument, and
    booleans become `True` and `False`.
    """
    arguments = []
    for name, value in sorted(_scripts_own(hyperparameters).items()):
        arguments += [f"--{name}" if len(name) > 1 else f"-{name}", _argument(value)]
    return arguments


def script_environment(
    *, request: Request, node: Node, layout: Layout, hosts: Sequence[str], run: str
) -> dict[str, str]:
    """
    Return the `SM_*` variables.

    Args:
        request: The run's request.
        node: The node on which the script runs.
        layout: The node's folders.
        hosts: Addresses of the ring's nodes in rank order; the first has rank 0.
        run: Name of the run.
    """
    hyperparameters = _scripts_own(request.hyperparameters)
    channels = {name: str(layout.channel(name)) for name in request.data}
    resources = resource_config(node=node, hosts=hosts)
    facts: dict[str, Any] = {
        "channel_input_dirs": channels,
        "current_host": node.address,
        "current_instance_group": _INSTANCE_GROUP,
        "current_instance_group_hosts": list(hosts),
        "current_instance_type": node.instance_type,
        "distribution_hosts": list(hosts),
        "distribution_instance_groups": [_INSTANCE_GROUP],
        "framework_module": None,
        "hosts": list(hosts),
        "hyperparameters": hyperparameters,
        "input_config_dir": str(layout.config),
        "input_data_config": input_data_config(request.data),
        "input_dir": str(layout.input),
        "instance_groups": [_INSTANCE_GROUP],
        "instance_groups_dict": {group["instance_group_name"]: group for group in resources["instance_groups"]},
        "is_hetero": False,
        "is_master": node.address == hosts[0],
        "job_name": run,
        "log_level": _LOG_LEVEL_INFO,
        "master_hostname": hosts[0],
        "model_dir": str(layout.model),
        "module_dir": request.source,
        "module_name": request.entry_point.removesuffix(".py"),
        "network_interface_name": node.interface,
        "num_cpus": os.cpu_count() or 1,
        "num_gpus": node.gpus,
        "output_data_dir": str(layout.output_data),
        "output_dir": str(layout.output),
        "output_intermediate_dir": str(layout.output / "intermediate"),
        "resource_config": resources,
        "user_entry_point": request.entry_point,
    }
    only_in_training_env = (
        "channel_input_dirs",
        "distribution_hosts",
        "hyperparameters",
        "is_master",
        "job_name",
        "master_hostname",
    )
    variables = {name: value for name, value in facts.items() if name not in only_in_training_env}
    variables |= {
        "channels": sorted(channels),
        "framework_params": _toolkits_own(request.hyperparameters),
        "hps": hyperparameters,
        "training_env": facts,
        "user_args": script_arguments(request.hyperparameters),
    }
    # The toolkit has no variables for these: in SageMaker they are fixed paths.
    variables |= {"checkpoint_dir": str(layout.checkpoints), "tensorboard_dir": str(layout.tensorboard)}
    variables |= {f"channel_{name}": path for name, path in channels.items()}
    variables |= {f"hp_{name}": value for name, value in hyperparameters.items()}
    return {f"SM_{name.upper()}": _variable(value) for name, value in variables.items()}


def resource_config(*, node: Node, hosts: Sequence[str]) -> dict[str, Any]:
    """Return the content of `resourceconfig.json`."""
    return {
        "current_group_name": _INSTANCE_GROUP,
        "current_host": node.address,
        "current_instance_type": node.instance_type,
        "hosts": list(hosts),
        "instance_groups": [
            {"hosts": list(hosts), "instance_group_name": _INSTANCE_GROUP, "instance_type": node.instance_type}
        ],
        "network_interface_name": node.interface,
    }


def input_data_config(data: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of `inputdataconfig.json`."""
    return {
        name: {"RecordWrapperType": "None", "S3DistributionType": "FullyReplicated", "TrainingInputMode": "File"}
        for name in data
    }


def write_config(*, request: Request, node: Node, layout: Layout, hosts: Sequence[str]) -> None:
    """Write the three JSON files that SageMaker puts into `input/config`."""
    # Hyperparameters of SageMaker's API are strings. The SDK writes JSON into them, which the toolkit parses.
    hyperparameters = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in request.hyperparameters.items()
    }
    for name, content in (
        ("hyperparameters", hyperparameters),
        ("inputdataconfig", input_data_config(request.data)),
        ("resourceconfig", resource_config(node=node, hosts=hosts)),
    ):
        (layout.config / f"{name}.json").write_text(json.dumps(content))


def _scripts_own(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in hyperparameters.items() if not _is_reserved(name)}


def _toolkits_own(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in hyperparameters.items() if _is_reserved(name)}


def _is_reserved(name: str) -> bool:
    return name.startswith(_RESERVED_PREFIX) or name in _RESERVED_NAMES


def _argument(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={item}" for name, item in sorted(value.items()))
    return str(value)


def _variable(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    # The toolkit escapes non-ASCII characters, which can take three times the bytes; scripts read the same values.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
