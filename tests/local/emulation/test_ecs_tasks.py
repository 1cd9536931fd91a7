"""ECS tasks as real processes: their environment, mounts, credentials, metadata and end; and the API of tasks."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from horovod_local import Faults
from horovod_local.instances import opt_ml
from horovod_local.instances.machine import LEAVE_UNIT
from horovod_local.instances.processes import processes_with
from horovod_node import contract
from support.local_cloud.container_instances import NODE_FOLDER
from support.waiting import eventually

needs_namespaces = pytest.mark.skipif(
    bool(opt_ml.unavailable_reason()), reason="this machine permits no mount namespaces"
)


def started(fleet: Any) -> tuple[dict[str, Any], Any]:
    """Start the one instance of *fleet*; return its task, and the instance."""
    fleet.scale(4)
    [task] = fleet.running(1)
    [machine] = fleet.machines().values()
    return task, machine


def environment_of(pid: int) -> dict[str, str]:
    """Read the environment with which a process was started."""
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def get(url: str) -> Any:
    """Read JSON, as a container does, without credentials."""
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - the cloud's own address
        return json.loads(answer.read())


def test_containers_know_what_ecs_tells_them(cloud: Any, ecs_fleets: Any) -> None:
    """A container has its GPUs, its own variables and the addresses of credentials and metadata, but no keys."""
    # GIVEN
    template = ecs_fleets.template()
    [container] = template["Resources"]["Task4"]["Properties"]["ContainerDefinitions"]
    container["Environment"] = [{"Name": "OWN", "Value": "x = y"}]
    fleet = ecs_fleets.create(template)

    # WHEN
    task, machine = started(fleet)
    environment = environment_of(machine.pid)

    # THEN
    assert environment["NVIDIA_VISIBLE_DEVICES"].split(",") == task["containers"][0]["gpuIds"]
    assert (environment["OWN"], environment["AWS_EXECUTION_ENV"]) == ("x = y", "AWS_ECS_EC2")
    assert environment["AWS_ENDPOINT_URL"] == cloud.endpoint
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", contract.ENV_ENGINE, contract.ENV_PULLED_AT} & {
        *environment
    }
    assert (environment[contract.ENV_NODE_GPUS], environment[contract.ENV_NODE_INTERFACE]) == ("4", "lo")
    assert environment[contract.ENV_METADATA_ENDPOINT].endswith(machine.instance_id)


@needs_namespaces
def test_containers_have_the_mounts_of_their_definition(ecs_fleets: Any) -> None:
    """Folders of the host are where the definition says; one that is mounted read-only cannot be written."""
    # GIVEN
    inside = f"cat {contract.NODE_ENV_FILE}; touch {NODE_FOLDER}/new || echo refused; touch /opt/ml/mine; echo end"
    fleet = ecs_fleets.create(command=f"{inside}; sleep 600")

    # WHEN
    _, machine = started(fleet)
    log = Path(machine.log)
    printed = eventually(log.read_text, lambda text: "end\n" in text)

    # THEN
    assert printed.startswith(f"{contract.ENV_ENGINE}=ecs\nAWS_REGION=eu-west-1\n")
    assert "refused" in printed
    host = log.parent / "host"
    assert [path.name for path in (host / "var/lib/ml").iterdir()] == ["mine"]
    assert [path.name for path in (host / NODE_FOLDER.lstrip("/")).iterdir()] == ["node.env"]
    assert (log.parent / "ml").resolve() == host / "var/lib/ml"
    assert not Path(NODE_FOLDER).exists()


@needs_namespaces
def test_what_is_on_the_host_outlives_a_container(ecs_fleets: Any) -> None:
    """The next task of an instance finds what the last one left in a folder of the host."""
    # GIVEN
    fleet = ecs_fleets.create(command="[ -e /opt/ml/first ] && echo again; touch /opt/ml/first; echo began; sleep 600")
    task, machine = started(fleet)
    eventually(Path(machine.log).read_text)

    # WHEN
    fleet.ecs.stop_task(cluster=fleet.cluster, task=task["taskArn"])

    # THEN
    assert eventually(Path(machine.log).read_text, lambda text: "again" in text) == "began\nagain\nbegan\n"


def test_a_task_can_have_several_containers(ecs_fleets: Any) -> None:
    """In place of a container that is no node's, a process waits; it belongs to the task like any other."""
    # GIVEN
    template = ecs_fleets.template()
    template["Resources"]["Task4"]["Properties"]["ContainerDefinitions"].append(
        {"Name": "side", "Image": "logs:1", "Essential": False, "MemoryReservation": 64}
    )
    fleet = ecs_fleets.create(template)

    # WHEN
    task, machine = started(fleet)

    # THEN
    assert [(each["name"], each["lastStatus"]) for each in task["containers"]] == [
        ("node", "RUNNING"),
        ("side", "RUNNING"),
    ]
    assert (Path(machine.log).parent / "side.log").read_text() == ""


def test_a_task_has_the_credentials_of_its_role(cloud: Any, ecs_fleets: Any) -> None:
    """A container acts as the task role, in a session named after the task; it is not the instance's role."""
    # GIVEN
    listing = {"Effect": "Allow", "Action": "ecs:ListClusters", "Resource": "*"}
    aws = "aws --region eu-west-1 --output text ecs"
    calls = f"{aws} list-clusters --query 'length(clusterArns)'; {aws} discover-poll-endpoint"
    fleet = ecs_fleets.create(task_statements=[listing], command=f"{calls}; echo end; sleep 600")

    # WHEN
    task, machine = started(fleet)
    printed = eventually(Path(machine.log).read_text, lambda text: "end\n" in text).splitlines()
    given = get(environment_of(machine.pid)["AWS_CONTAINER_CREDENTIALS_FULL_URI"])

    # THEN
    role = given["RoleArn"].rpartition("/")[2]
    session = task["taskArn"].rpartition("/")[2]
    assert ("TaskRole" in role, int(printed[0]) >= 1) == (True, True)
    denied = next(line for line in printed if "AccessDenied" in line)
    assert f"User: arn:aws:sts::123456789012:assumed-role/{role}/{session} is not authorized to perform" in denied
    assert f"{role}: ecs.DiscoverPollEndpoint: " in "".join(cloud.permissions()["denials"])


def test_credentials_belong_to_their_container(cloud: Any, ecs_fleets: Any) -> None:
    """Whoever does not know a container's own address gets neither its credentials nor its metadata."""
    # GIVEN
    fleet = ecs_fleets.create()
    _, machine = started(fleet)
    address = environment_of(machine.pid)["AWS_CONTAINER_CREDENTIALS_FULL_URI"]

    # WHEN, THEN
    for guess in (f"{address}0", address.rpartition("/")[0], address.replace("v2/credentials", "v4") + "/stats"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(guess)
    other = address.replace(machine.instance_id, "i-00000000000000000")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(other)
    assert cloud.endpoint in address


def test_a_task_without_a_role_has_its_instances(ecs_fleets: Any) -> None:
    """Without a task role the SDKs take the instance's credentials, which a container reaches, too."""
    # GIVEN
    template = ecs_fleets.template()
    del template["Resources"]["Task4"]["Properties"]["TaskRoleArn"]
    fleet = ecs_fleets.create(template)

    # WHEN
    _, machine = started(fleet)
    environment = environment_of(machine.pid)

    # THEN
    assert environment["AWS_ACCESS_KEY_ID"].startswith(f"node-{machine.instance_id}.")
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" not in environment


def test_tasks_find_their_metadata(ecs_fleets: Any) -> None:
    """The task metadata endpoint, version 4, describes the container and its task."""
    # GIVEN
    fleet = ecs_fleets.create()
    task, machine = started(fleet)
    address = environment_of(machine.pid)["ECS_CONTAINER_METADATA_URI_V4"]

    # WHEN
    described, container = get(f"{address}/task"), get(address)

    # THEN
    assert (described["Cluster"], described["TaskARN"]) == (fleet.cluster, task["taskArn"])
    assert (described["Family"], described["Revision"]) == (f"{ecs_fleets.family}-4", "1")
    assert described["ServiceName"] == fleet.service(4)["serviceName"]
    assert (described["KnownStatus"], described["LaunchType"]) == ("RUNNING", "EC2")
    assert described["PullStartedAt"] <= described["PullStoppedAt"]
    assert described["Containers"] == [container]
    assert (container["Name"], container["Image"]) == ("node", "horovod:1")
    assert container["ContainerARN"] == task["containers"][0]["containerArn"]
    assert container["ImageID"].startswith("sha256:")


def test_stopped_tasks_end_on_their_instance(ecs_fleets: Any) -> None:
    """StopTask sends SIGTERM to the container's first process, and the task keeps the user's reason."""
    # GIVEN
    fleet = ecs_fleets.create(command="trap 'echo bye; exit 7' TERM; echo ready; sleep 600 & wait")
    task, machine = started(fleet)
    eventually(Path(machine.log).read_text)

    # WHEN
    answer = fleet.ecs.stop_task(cluster=fleet.cluster, task=task["taskArn"], reason="enough")["task"]

    # THEN
    assert (answer["desiredStatus"], answer["lastStatus"]) == ("STOPPED", "RUNNING")
    [ended] = eventually(
        lambda: fleet.tasks(status="STOPPED"), lambda seen: seen and seen[0]["lastStatus"] == "STOPPED"
    )
    assert (ended["stopCode"], ended["stoppedReason"]) == ("UserInitiated", "enough")
    assert ended["containers"][0]["exitCode"] == 7
    assert "ready\nbye\n" in Path(machine.log).read_text()


def test_containers_that_do_not_stop_are_killed(ecs_fleets: Any) -> None:
    """After `stopTimeout` a container is killed, with whatever it has started."""
    # GIVEN
    stubborn = "trap '' TERM; setsid sleep 600 & echo ready; while true; do sleep 0.1; done"
    fleet = ecs_fleets.create(command=stubborn)
    task, machine = started(fleet)
    eventually(Path(machine.log).read_text)
    container = environment_of(machine.pid)["CDK_HOROVOD_LOCAL_CONTAINER"]

    # WHEN
    fleet.ecs.stop_task(cluster=fleet.cluster, task=task["taskArn"])

    # THEN
    ended = eventually(lambda: fleet.tasks(status="STOPPED"), lambda seen: seen and seen[0]["lastStatus"] == "STOPPED")
    assert ended[0]["containers"][0]["exitCode"] == 137
    assert list(processes_with("CDK_HOROVOD_LOCAL_CONTAINER", container)) == []


def test_agents_that_do_not_start_leave_their_task_pending(faults: Any, ecs_fleets: Any) -> None:
    """The fault of agents that do not start holds for containers: the task is placed, and stays pending."""
    # GIVEN
    fleet = ecs_fleets.create()
    faults.set_faults(Faults(agents_start=False))

    # WHEN
    fleet.scale(4)
    [task] = eventually(fleet.tasks)

    # THEN
    assert (task["lastStatus"], [machine.pid for machine in fleet.machines().values()]) == ("PENDING", [None])

    # WHEN
    faults.set_faults(Faults())

    # THEN
    assert [each["taskArn"] for each in fleet.running(1)] == [task["taskArn"]]


def test_a_lost_instance_takes_its_containers_along(cloud: Any, ecs_fleets: Any) -> None:
    """When an instance loses power, its containers are killed, and nothing of it is left."""
    # GIVEN
    fleet = ecs_fleets.create(command="trap 'echo bye' TERM; echo ready; while true; do sleep 0.1; done")
    _, machine = started(fleet)
    eventually(Path(machine.log).read_text)

    # WHEN
    cloud.lose(machine.instance_id)

    # THEN
    assert list(processes_with(contract.ENV_NODE_ID, machine.instance_id)) == []
    assert Path(machine.log).read_text() == "ready\n"


def test_a_node_whose_part_is_over_leaves(ecs_fleets: Any) -> None:
    """A container that leaves the file which user data watches has its instance leave, by its switch."""
    # GIVEN
    # Where folders cannot be mounted, a variable names the container's.
    folder = f'test -n "$CDK_HOROVOD_ML_ROOT" || CDK_HOROVOD_ML_ROOT={contract.DEFAULT_ML_ROOT}'
    command = f"{folder}; touch $CDK_HOROVOD_ML_ROOT/{contract.PART_OVER_FILE}; sleep 600"
    template = ecs_fleets.template(command=command)
    data = template["Resources"]["NodeTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]
    switch = 'echo "$@ $CDK_HOROVOD_ENGINE"; sleep 600'
    data["Fn::Sub"] += f"cat > '{contract.SWITCH_FILE}' <<'SWITCH'\n{switch}\nSWITCH\n"
    unit = f"[Path]\nPathExists=/var/lib/ml/{contract.PART_OVER_FILE}"
    data["Fn::Sub"] += f"cat > '{LEAVE_UNIT}' <<'UNIT'\n{unit}\nUNIT\n"
    fleet = ecs_fleets.create(template)

    # WHEN
    fleet.scale(4)
    [machine] = eventually(lambda: list(fleet.machines().values()))

    # THEN
    log = Path(machine.log).with_name("switch.log")
    lines = eventually(lambda: log.exists() and log.read_text().splitlines(), lambda seen: seen and len(seen) == 2)
    assert sorted(lines) == [" local", "leave local"]


def test_describing_tasks_changes_nothing(ecs_fleets: Any) -> None:
    """However often a task is described, it runs; unknown ones are failures, and a request names at most a hundred."""
    # GIVEN
    fleet = ecs_fleets.create()
    task, _ = started(fleet)
    describe = fleet.ecs.describe_tasks
    short = task["taskArn"].rpartition("/")[2]

    # WHEN, THEN
    for _ in range(6):
        answer = describe(cluster=fleet.cluster, tasks=[task["taskArn"], short, short[:8]])
        assert [each["lastStatus"] for each in answer["tasks"]] == ["RUNNING", "RUNNING"]
        assert answer["failures"] == [{"arn": short[:8], "reason": "MISSING"}]
    for wrong in ([], 101 * [short]):
        with pytest.raises(fleet.ecs.exceptions.InvalidParameterException):
            describe(cluster=fleet.cluster, tasks=wrong)


def test_tasks_are_listed_by_their_properties(ecs_fleets: Any) -> None:
    """ListTasks lists the tasks that shall run of one cluster, and of those what it is asked for, in pages."""
    # GIVEN a cluster with two tasks, and one that has stopped
    fleet = ecs_fleets.create()
    fleet.scale(8)
    first, second = fleet.running(2)
    fleet.ecs.stop_task(cluster=fleet.cluster, task=second["taskArn"])
    eventually(lambda: fleet.tasks(status="STOPPED"), lambda seen: seen and seen[0]["lastStatus"] == "STOPPED")
    third = next(task for task in fleet.running(2) if task["taskArn"] != first["taskArn"])
    now = sorted([first["taskArn"], third["taskArn"]])

    def listed(**request: Any) -> list[str]:
        return sorted(fleet.ecs.list_tasks(cluster=fleet.cluster, **request)["taskArns"])

    # WHEN, THEN
    assert listed() == now
    assert listed(desiredStatus="STOPPED") == [second["taskArn"]]
    assert listed(serviceName=fleet.outputs["Service4"]) == now
    assert listed(serviceName=fleet.outputs["Service1"]) == []
    assert listed(family=f"{ecs_fleets.family}-4") == now
    assert listed(family=ecs_fleets.family) == []
    assert listed(containerInstance=first["containerInstanceArn"]) == [first["taskArn"]]
    assert listed(startedBy=first["startedBy"]) == now
    assert listed(launchType="FARGATE") == []
    page = fleet.ecs.list_tasks(cluster=fleet.cluster, maxResults=1)
    rest = fleet.ecs.list_tasks(cluster=fleet.cluster, maxResults=1, nextToken=page["nextToken"])
    assert sorted([*page["taskArns"], *rest["taskArns"]]) == now
    with pytest.raises(fleet.ecs.exceptions.ServiceNotFoundException):
        listed(serviceName="none")


def test_container_agents_report_what_they_do(ecs_fleets: Any) -> None:
    """A task's times are those of its agent's reports; an unknown task cannot be reported on."""
    # GIVEN
    fleet = ecs_fleets.create()
    task, machine = started(fleet)

    # WHEN
    os.kill(machine.pid, signal.SIGTERM)
    [ended] = eventually(
        lambda: fleet.tasks(status="STOPPED"), lambda seen: seen and seen[0]["lastStatus"] == "STOPPED"
    )

    # THEN
    moments = ("createdAt", "pullStartedAt", "pullStoppedAt", "startedAt", "stoppedAt")
    assert [ended[name] for name in moments] == sorted(ended[name] for name in moments)
    assert (ended["taskArn"], ended["containers"][0]["exitCode"]) == (task["taskArn"], 143)
    for submit in (fleet.ecs.submit_task_state_change, fleet.ecs.submit_container_state_change):
        with pytest.raises(fleet.ecs.exceptions.InvalidParameterException, match="task was not found"):
            submit(cluster=fleet.cluster, task="none", status="RUNNING")


def test_single_tasks_are_refused(ecs_fleets: Any) -> None:
    """The local cloud places the tasks of daemons only, and says so."""
    # GIVEN
    fleet = ecs_fleets.create()
    request = {"cluster": fleet.cluster, "taskDefinition": fleet.outputs["Task4"]}

    # WHEN, THEN
    with pytest.raises(fleet.ecs.exceptions.InvalidParameterException, match="neither RunTask nor StartTask"):
        fleet.ecs.run_task(**request)
    with pytest.raises(fleet.ecs.exceptions.InvalidParameterException, match="neither RunTask nor StartTask"):
        fleet.ecs.start_task(**request, containerInstances=["none"])
