"""The script that an instance runs at its first boot, as text; tests/image runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

import pytest

from cdk_horovod.engines import user_data
from cdk_horovod.engines.user_data import (
    CONTAINER_INSTANCE_ML_ROOT,
    container_instance_user_data,
    node_user_data,
    without_comments,
)
from horovod_node import contract
from support.synthesis import REPOSITORY

UNIT = "/etc/systemd/system/cdk-horovod-dead-mans-switch.service"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/node:1"
ENVIRONMENT = {
    contract.ENV_ENGINE: contract.ENGINE_EC2,
    contract.ENV_LEDGER_TABLE: "Ledger-1AB",
    contract.ENV_FLEET: "c8a1",
    contract.ENV_LEASE_SECONDS: "600",
    "AWS_REGION": "eu-west-1",
}


def rendered(
    *, image_uri: str = IMAGE, environment: dict[str, str] | None = None, log_group_name: str | None = "nodes"
) -> str:
    """Render the script as an instance gets it."""
    lines = node_user_data(
        image_uri=image_uri,
        environment=ENVIRONMENT if environment is None else environment,
        log_group_name=log_group_name,
    )
    return "\n".join(["#!/bin/bash", *lines, ""])


def joining(*, environment: dict[str, str] | None = None, agent_config: dict[str, str] | None = None) -> str:
    """Render the script as a container instance of ECS gets it."""
    lines = container_instance_user_data(
        environment=ENVIRONMENT if environment is None else environment,
        agent_config=agent_config
        or {"ECS_CLUSTER": "team", "ECS_INSTANCE_ATTRIBUTES": '{"cdk-horovod.fleet": "c8a1"}'},
    )
    return "\n".join(["#!/bin/bash", *lines, ""])


SCRIPTS = pytest.mark.parametrize("render", [rendered, joining])
"""Both ends of the script."""


def findings(script: str) -> str:
    """Check *script* with ShellCheck, without its optional rules of style."""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run(
        [shellcheck, "--shell=bash", "--norc", "-"], input=script, capture_output=True, text=True, check=False
    )
    return checked.stdout + checked.stderr


def heredoc(script: str, file: str = contract.NODE_ENV_FILE) -> str:
    """Read what *script* writes into a file, by default the node's environment."""
    found = re.search(rf"cat > '{file}' <<'(\w+)'\n(.*?)\n\1\n", script, re.DOTALL)
    assert found
    return found[2]


@pytest.mark.parametrize(
    "script",
    [
        "constructs/cdk_horovod/engines/node_boot.sh",
        "constructs/cdk_horovod/engines/run_container.sh",
        "constructs/cdk_horovod/engines/join_cluster.sh",
        "constructs/cdk_horovod/engines/dead_mans_switch.sh",
        "training_image/build_horovod.sh",
    ],
)
def test_shell_scripts_are_clean(script: str) -> None:
    """ShellCheck finds nothing in the shell scripts as they lie in the repository."""
    assert findings((REPOSITORY / script).read_text()) == ""


@pytest.mark.parametrize("log_group_name", ["nodes", None])
def test_rendered_script_is_clean(log_group_name: str | None) -> None:
    """ShellCheck finds nothing in the script that an instance runs."""
    assert findings(rendered(log_group_name=log_group_name)) == ""


def test_rendered_script_of_a_container_instance_is_clean() -> None:
    """ShellCheck finds nothing in the script that a container instance runs."""
    assert findings(joining()) == ""


@SCRIPTS
def test_environment_reaches_its_file(render: Callable[..., str]) -> None:
    """Each variable is one KEY=VALUE line of the file that the container and the local cloud read."""
    assert heredoc(render()).splitlines() == [f"{name}={value}" for name, value in ENVIRONMENT.items()]


def test_agent_of_ecs_is_configured_at_the_end() -> None:
    """The cluster is named when nothing can fail any more, because an agent without one joins none."""
    # WHEN
    script = joining()
    # THEN
    assert heredoc(script, "/etc/ecs/ecs.config").splitlines() == [
        "ECS_CLUSTER=team",
        'ECS_INSTANCE_ATTRIBUTES={"cdk-horovod.fleet": "c8a1"}',
    ]
    rest = script.partition("\nECS_CONFIG\n")[2]
    assert rest == 'say "node joins its cluster"\nwait\n'
    assert "docker" not in script.partition("link_gpus\n")[2]


def test_instance_goes_when_its_task_leaves_the_file() -> None:
    """On ECS systemd waits for the file by which the agent says that its part is over."""
    unit = heredoc(joining(), "/etc/systemd/system/cdk-horovod-part-over.path")
    assert unit == f"[Path]\nPathExists={CONTAINER_INSTANCE_ML_ROOT}/{contract.PART_OVER_FILE}"


@SCRIPTS
def test_switch_is_installed_before_anything_that_may_fail(render: Callable[..., str]) -> None:
    """The dead-man's switch is on the instance as it lies in the repository, and starts before all else."""
    # WHEN
    script = render()

    # THEN
    switch = REPOSITORY / "constructs" / "cdk_horovod" / "engines" / "dead_mans_switch.sh"
    assert heredoc(script, contract.SWITCH_FILE) + "\n" == without_comments(switch.read_text())
    enabled = script.index(f"\nsystemctl enable --now {Path(UNIT).name}\n")
    assert (
        script.index(f"'{contract.NODE_ENV_FILE}'")
        < script.index(f"'{contract.SWITCH_FILE}'")
        < script.index(f"'{UNIT}'")
        < enabled
    )
    others = ("\nuse_instance_store\n", "\nsystemctl start", "\nretry ", "|| retry ")
    assert enabled < min(script.index(word) for word in others if word in script)


@SCRIPTS
def test_switch_is_restarted_whatever_happens(render: Callable[..., str]) -> None:
    """systemd starts the switch at every boot and after every end, and the kernel never kills it for memory."""
    # GIVEN
    unit = ConfigParser()
    unit.optionxform = str  # type: ignore[assignment, method-assign]  # ConfigParser's documented way to keep capitals

    # WHEN
    unit.read_string(heredoc(render(), UNIT))

    # THEN
    assert {section: dict(unit[section]) for section in unit.sections()} == {
        "Unit": {
            "Description": "Takes this instance out when nothing keeps its run alive any more",
            "StartLimitIntervalSec": "0",
        },
        "Service": {
            "EnvironmentFile": f"-{contract.NODE_ENV_FILE}",
            "ExecStart": f"/bin/bash {contract.SWITCH_FILE}",
            "Restart": "always",
            "RestartSec": "5",
            "OOMScoreAdjust": "-1000",
            "StandardError": "journal+console",
        },
        "Install": {"WantedBy": "multi-user.target"},
    }


@SCRIPTS
def test_every_word_is_filled_in(render: Callable[..., str]) -> None:
    """Every placeholder of the script is replaced, and every value has a placeholder."""
    assert re.findall(r"@[A-Z_]+@", render()) == []


def test_tokens_stay_whole() -> None:
    """A CDK token is carried into the script unchanged, for CloudFormation to resolve."""
    # GIVEN
    image, region, group = "${Token[TOKEN.7]}/node:${Token[TOKEN.8]}", "${Token[AWS.Region.4]}", "${Token[TOKEN.9]}"

    # WHEN
    script = rendered(
        image_uri=image, environment=ENVIRONMENT | {"AWS_REGION": region, "X_2": region}, log_group_name=group
    )

    # THEN
    assert f"\nimage='{image}'\nlog_group='{group}'\n" in script
    assert f"\nregion='{region}'\n" in script
    assert heredoc(script).endswith(f"\nAWS_REGION={region}\nX_2={region}")


def test_value_is_not_taken_for_a_word_of_the_script() -> None:
    """A value that looks like a placeholder is not replaced."""
    script = rendered(environment=ENVIRONMENT | {"NOTE": "@IMAGE@"})

    assert heredoc(script).endswith("\nNOTE=@IMAGE@")


def test_no_log_group_leaves_the_log_driver_alone() -> None:
    """Without a log group the script passes no log driver to Docker."""
    assert "\nlog_group=''\n" in rendered(log_group_name=None)


@SCRIPTS
def test_fits_into_user_data(render: Callable[..., str]) -> None:
    """The script leaves room for a fleet's own commands within the 16 KB of user data."""
    assert len(render().encode()) < 13 * 1024


@pytest.mark.parametrize("value", ["it's", "a\nb", "back\\slash", "`id`", "é"])
def test_fails_when_the_agents_configuration_needs_quoting(value: str) -> None:
    """A value that the agent could read otherwise is refused; double quotes are those of its JSON."""
    with pytest.raises(ValueError, match=r"^'agent_config\[NOTE\]' must be one line of printable ASCII without "):
        joining(agent_config={"NOTE": value})


@SCRIPTS
@pytest.mark.parametrize("value", ["it's", 'a "b"', "a\nb", "a\rb", "back\\slash", "`id`", "é", "\x7f"])
def test_fails_when_a_value_needs_quoting(value: str, render: Callable[..., str]) -> None:
    """A value that a shell or an env file could read otherwise is refused, not escaped."""
    with pytest.raises(ValueError, match=r"^'environment\[NOTE\]' must be one line of printable ASCII without quotes"):
        render(environment=ENVIRONMENT | {"NOTE": value})


@pytest.mark.parametrize("name", ["", "a", "A B", "A=B", "1A", "A-B"])
def test_fails_when_a_name_is_not_one(name: str) -> None:
    """A name of a variable that not every shell takes is refused."""
    with pytest.raises(ValueError, match=r"^'environment' must be named in capital letters, digits and '_', got"):
        rendered(environment=ENVIRONMENT | {name: "1"})


@pytest.mark.parametrize("image", ["", "a b", "a'b", "a\nb"])
def test_fails_when_the_image_is_not_one_word(image: str) -> None:
    """An image's address that is not one word is refused."""
    with pytest.raises(ValueError, match=r"^'image_uri' must be one word without quotes, got "):
        rendered(image_uri=image)


def test_fails_when_the_log_group_is_empty() -> None:
    """An empty log group is refused: None says that there is none."""
    with pytest.raises(ValueError, match=r"^'log_group_name' must be one word without quotes, or None, got ''$"):
        rendered(log_group_name="")


@pytest.mark.parametrize(
    "name", ["AWS_REGION", contract.ENV_LEDGER_TABLE, contract.ENV_FLEET, contract.ENV_LEASE_SECONDS]
)
def test_fails_when_the_switch_would_not_know_its_run(name: str) -> None:
    """A variable that the dead-man's switch or the log driver needs must not be missing."""
    # GIVEN
    environment = {key: value for key, value in ENVIRONMENT.items() if key != name}

    # WHEN / THEN
    with pytest.raises(ValueError, match=rf"^'environment' must name {name}, got {', '.join(environment)}$"):
        rendered(environment=environment)


@pytest.mark.parametrize("script", ["node_boot.sh", "run_container.sh", "join_cluster.sh", "dead_mans_switch.sh"])
def test_scripts_are_shipped_beside_their_module(script: str) -> None:
    """The scripts are package data, beside the module that reads them."""
    assert Path(user_data.__file__).with_name(script).read_text().startswith("#!/usr/bin/env bash\n")
