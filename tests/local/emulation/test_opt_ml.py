"""`/opt/ml` of the instances: each has its own, the machine has none; and what they get where that cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from horovod_local import LocalCloud
from horovod_local.instances import opt_ml
from horovod_node import contract
from support.local_cloud import without_namespaces
from support.local_cloud.container_instances import EcsFleets
from support.local_cloud.emulated_resources import Fleets, Stacks, make_role, started, user_data
from support.waiting import eventually

WITHOUT_NAMESPACES = [sys.executable, without_namespaces.__file__]
AS_WHO = {
    "whoever runs the tests": [],
    "who may not mount": ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"],
}


def names_in(folder: Path) -> list[str]:
    """List what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def machines_opt() -> Iterator[Path]:
    """The machine's own /opt, which must be in the end what it was."""
    opt = Path("/opt")
    before = names_in(opt)
    yield opt
    assert names_in(opt) == before


@pytest.mark.skipif(bool(opt_ml.unavailable_reason()), reason="this machine permits no mount namespaces")
def test_every_node_has_its_own_opt_ml(cloud: Any, fleets: Any) -> None:
    """What a process of one node writes below /opt/ml, all of that node's processes find there, and no other node's."""
    # GIVEN nodes that write, and read in a process of its own session
    write = "mkdir /opt/ml/model && touch /opt/ml/model/$CDK_HOROVOD_NODE_ID"
    fleet = fleets.create(user_data=user_data(f"{write}; sleep 1; setsid ls /opt/ml/model; env; sleep 600"))
    # WHEN
    fleet.scale(2)
    instances = started(cloud, fleet, 2)
    # THEN
    for instance in instances:
        log = Path(instance.log)
        printed = eventually(log.read_text, lambda text: "SHLVL" in text)
        assert printed.splitlines()[0] == instance.instance_id
        assert names_in(log.parent / "ml" / "model") == [instance.instance_id]
        # AND it is told of no other place
        assert contract.ENV_ML_ROOT not in printed


@pytest.mark.parametrize("who", AS_WHO)
def test_the_rest_of_opt_stays(machines_opt: Path, tmp_path: Path, who: str) -> None:
    """Where /opt/ml was never there, all else of /opt is as it was, and what would be lost there cannot be written."""
    # GIVEN
    probe = subprocess.run([*AS_WHO[who], *opt_ml.command(tmp_path, [])], stderr=subprocess.PIPE, text=True)
    if probe.returncode:
        pytest.skip(f"not permitted: {probe.stderr.strip()}")
    # WHEN
    look = "pwd; touch /opt/ml/left; touch /opt/lost 2> /dev/null || echo refused; ls -A /opt"
    ended = subprocess.run(
        [*AS_WHO[who], *opt_ml.command(tmp_path, ["sh", "-c", look])],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    # THEN
    has_its_own = (machines_opt / "ml").is_dir()
    expected = [str(tmp_path), *([] if has_its_own else ["refused"])]
    assert ended.stdout.splitlines()[: len(expected)] == expected
    assert sorted(ended.stdout.splitlines()[len(expected) :]) == sorted({*names_in(machines_opt), "ml"})
    assert names_in(tmp_path) == ["left"]


@pytest.mark.parametrize("who", AS_WHO)
def test_folders_can_be_mounted_inside_each_other_and_read_only(tmp_path: Path, who: str) -> None:
    """A container's mounts: a second folder beside the first, which cannot be written."""
    # GIVEN
    own, given = tmp_path / "own", tmp_path / "given"
    own.mkdir()
    given.mkdir()
    (given / "node.env").write_text("A=1\n")
    look = "cat /etc/mounted/node.env; touch /etc/mounted/new 2> /dev/null || echo refused; touch /opt/ml/new"
    inner = opt_ml.command(given, ["sh", "-c", look], at="/etc/mounted", read_only=True)
    probe = subprocess.run([*AS_WHO[who], *opt_ml.command(own, [])], stderr=subprocess.PIPE, text=True)
    if probe.returncode:
        pytest.skip(f"not permitted: {probe.stderr.strip()}")

    # WHEN
    ended = subprocess.run([*AS_WHO[who], *opt_ml.command(own, inner)], stdout=subprocess.PIPE, text=True, check=True)

    # THEN
    assert ended.stdout == "A=1\nrefused\n"
    assert (names_in(own), names_in(given)) == (["new"], ["node.env"])
    assert not Path("/etc/mounted").exists()


def test_machine_without_namespaces_tells_nodes_their_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Inside a container, for example: the cloud says so in one sentence, and nodes know their folder by its name."""
    # GIVEN a machine whose kernel refuses, and a node that prints what it is told
    node, python = tmp_path / "node", tmp_path / "python"
    node.write_text('#!/bin/bash\neval "$TEST_COMMAND"\n')
    python.write_text(f'#!/bin/sh\nexec {" ".join([*WITHOUT_NAMESPACES, sys.executable])} "$@"\n')
    for program in (node, python):
        program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with LocalCloud(home=tmp_path / "home", node_python=str(node)) as cloud:
        make_role(cloud)
        fleet = Fleets(cloud).create(user_data=user_data(f"ls -d ${contract.ENV_ML_ROOT}; sleep 600"))
        # WHEN
        fleet.scale(1)
        (instance,) = started(cloud, fleet)
        # THEN
        log = Path(instance.log)
        assert eventually(log.read_text) == f"{log.parent / 'ml'}\n"
        assert cloud.without_opt_ml() == "unshare: Operation not permitted"
        assert opt_ml.explanation("unshare: Operation not permitted") in cloud.log.read_text().splitlines()


def test_containers_without_namespaces_have_paths_and_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where nothing can be mounted, a node's container has the host's folder by its path, and the file's variables."""
    # GIVEN
    node, python = tmp_path / "node", tmp_path / "python"
    node.write_text('#!/bin/bash\neval "$TEST_COMMAND"\n')
    python.write_text(f'#!/bin/sh\nexec {" ".join([*WITHOUT_NAMESPACES, sys.executable])} "$@"\n')
    for program in (node, python):
        program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with LocalCloud(home=tmp_path / "home", node_python=str(node)) as cloud:
        fleet = EcsFleets(cloud, Stacks(cloud)).create(
            command=f"echo $CDK_HOROVOD_ENGINE; ls -d ${contract.ENV_ML_ROOT}; sleep 600"
        )
        # WHEN
        fleet.scale(4)
        fleet.running(1)
        # THEN
        [machine] = fleet.machines().values()
        log = Path(machine.log)
        printed = eventually(log.read_text, lambda text: text.count("\n") == 2)
        assert printed == f"ecs\n{log.parent / 'host/var/lib/ml'}\n"
