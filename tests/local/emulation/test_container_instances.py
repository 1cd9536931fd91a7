"""Container instances of ECS: registered by the agents of real instances, against AWS's documented behaviour."""

from __future__ import annotations

from typing import Any

import pytest

from horovod_local import Faults, Refusal
from support.local_cloud.container_instances import ATTRIBUTE, TYPES
from support.waiting import eventually


def resource(instance: dict[str, Any], name: str, *, which: str = "registeredResources") -> Any:
    """Read one resource of a container instance."""
    found = next(each for each in instance[which] if each["name"] == name)
    return found["stringSetValue"] if found["type"] == "STRINGSET" else found["integerValue"]


def registered(fleet: Any, count: int = 1) -> list[dict[str, Any]]:
    """Wait until *count* instances are registered and connected."""
    found: list[dict[str, Any]] = eventually(
        fleet.instances, lambda seen: len(seen) == count and all(each["agentConnected"] for each in seen)
    )
    return found


def test_container_instances_have_what_they_register(faults: Any, ecs_fleets: Any) -> None:
    """An instance registers its type's CPUs, memory and GPUs, its own attributes and those of ecs.config."""
    # GIVEN
    fleet = ecs_fleets.create()

    # WHEN a large instance starts, and then a small one, because no other large one is to be had
    fleet.scale(4)
    registered(fleet)
    faults.set_faults(Faults(refused=(Refusal(instance_type=TYPES[4]),)))
    fleet.scale(5)
    instances = {each["attributes"]["ecs.instance-type"]: each for each in registered(fleet, 2)}

    # THEN
    large, small = instances["g5.12xlarge"], instances["g5.xlarge"]
    assert (resource(large, "CPU"), resource(small, "CPU")) == (48 * 1024, 4 * 1024)
    assert 0.9 * 196608 < resource(large, "MEMORY") < 196608
    gpus = [*resource(large, "GPU"), *resource(small, "GPU")]
    assert (len(resource(large, "GPU")), len(set(gpus))) == (4, 5)
    assert resource(large, "PORTS") == ["22", "2375", "2376", "51678", "51679"]
    ec2 = faults.client("ec2").describe_instances(InstanceIds=[large["ec2InstanceId"]])["Reservations"][0]["Instances"]
    assert large["attributes"] == {
        ATTRIBUTE: ecs_fleets.family,
        "ecs.ami-id": "ami-1",
        "ecs.availability-zone": ec2[0]["Placement"]["AvailabilityZone"],
        "ecs.cpu-architecture": "x86_64",
        "ecs.instance-type": "g5.12xlarge",
        "ecs.os-family": "LINUX",
        "ecs.os-type": "linux",
        "ecs.subnet-id": ec2[0]["SubnetId"],
        "ecs.vpc-id": ec2[0]["VpcId"],
    }


def test_tasks_reserve_their_resources(ecs_fleets: Any) -> None:
    """A running task holds CPU, memory, its host port and its GPUs; in host mode the host port is the container's."""
    # GIVEN
    fleet = ecs_fleets.create()

    # WHEN
    fleet.scale(4)
    [task] = fleet.running(1)
    # Counts follow a moment later, as on AWS.
    [instance] = eventually(fleet.instances, lambda seen: seen[0]["runningTasksCount"] == 1)

    # THEN
    left = {name: resource(instance, name, which="remainingResources") for name in ("CPU", "MEMORY", "GPU", "PORTS")}
    assert left["CPU"] == resource(instance, "CPU") - 2048
    assert left["MEMORY"] == resource(instance, "MEMORY") - 8192
    assert (left["GPU"], "29400" in left["PORTS"]) == ([], True)
    assert sorted(task["containers"][0]["gpuIds"]) == sorted(resource(instance, "GPU"))
    assert (instance["runningTasksCount"], instance["pendingTasksCount"]) == (1, 0)
    [cluster] = fleet.ecs.describe_clusters(clusters=[fleet.cluster])["clusters"]
    counts = ("registeredContainerInstancesCount", "runningTasksCount", "activeServicesCount")
    assert [cluster[name] for name in counts] == [1, 1, 2]


def test_terminated_instances_are_deregistered(ecs_fleets: Any) -> None:
    """API Reference, DeregisterContainerInstance: a terminated instance is deregistered; its task says why it ended."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    fleet.running(1)
    [instance] = fleet.instances()

    # WHEN
    fleet.scale(0)

    # THEN
    assert eventually(fleet.instances, lambda seen: not seen) == []
    [ended] = fleet.tasks(status="STOPPED")
    assert ended["lastStatus"] == "STOPPED"
    assert ended["stoppedReason"] == f"Host EC2 (instance {instance['ec2InstanceId']}) terminated."


@pytest.mark.parametrize("how", ["its agent", "its network"])
def test_disconnected_instances_stay_registered(faults: Any, ecs_fleets: Any, how: str) -> None:
    """ "Instances with disconnected agents aren't automatically deregistered when terminated": task and all remain."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    [task] = fleet.running(1)
    [before] = fleet.instances()

    # WHEN
    if how == "its agent":
        faults.set_faults(Faults(container_agents_connect=False))
    else:
        faults.drop(before["ec2InstanceId"])
    lost = f"attribute:{ATTRIBUTE} == {ecs_fleets.family} and agentConnected == false"
    eventually(lambda: fleet.instances(filter=lost))
    fleet.scale(0)
    eventually(fleet.machines, lambda seen: not seen)

    # THEN
    [left] = fleet.instances(filter=lost)
    assert (left["ec2InstanceId"], left["status"]) == (before["ec2InstanceId"], "ACTIVE")
    [still] = fleet.tasks()
    assert (still["taskArn"], still["lastStatus"]) == (task["taskArn"], "RUNNING")

    # WHEN it is deregistered, the cluster is clean
    fleet.ecs.deregister_container_instance(
        cluster=fleet.cluster, containerInstance=left["containerInstanceArn"], force=True
    )

    # THEN
    assert (fleet.instances(), fleet.tasks()) == ([], [])


def test_agents_that_do_not_connect_get_no_task(faults: Any, ecs_fleets: Any) -> None:
    """An agent that never reaches ECS leaves no trace; once it does, its instance gets its task."""
    # GIVEN
    fleet = ecs_fleets.create()
    faults.set_faults(Faults(container_agents_connect=False))

    # WHEN
    fleet.scale(4)
    eventually(fleet.machines)

    # THEN
    assert (fleet.instances(), fleet.tasks()) == ([], [])

    # WHEN
    faults.set_faults(Faults())

    # THEN
    assert len(fleet.running(1)) == 1


def test_container_instances_are_filtered(ecs_fleets: Any) -> None:
    """ListContainerInstances evaluates its filter, refuses one that it cannot evaluate, and gives pages."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(8)
    instances = registered(fleet, 2)
    list_instances = fleet.ecs.list_container_instances

    # WHEN, THEN
    first = instances[0]
    wanted = f"ec2InstanceId in [{first['ec2InstanceId']}]"
    arns = list_instances(cluster=fleet.cluster, filter=wanted)["containerInstanceArns"]
    assert arns == [first["containerInstanceArn"]]
    assert list_instances(cluster=fleet.cluster, filter="agentConnected == false")["containerInstanceArns"] == []
    with pytest.raises(fleet.ecs.exceptions.InvalidParameterException, match="'attribute:x != y'"):
        list_instances(cluster=fleet.cluster, filter="attribute:x != y")
    page = list_instances(cluster=fleet.cluster, maxResults=1)
    rest = list_instances(cluster=fleet.cluster, maxResults=1, nextToken=page["nextToken"])
    assert {*page["containerInstanceArns"], *rest["containerInstanceArns"]} == {
        each["containerInstanceArn"] for each in instances
    }
    assert "nextToken" not in rest


def test_empty_clusters_have_no_container_instances(ecs_fleets: Any) -> None:
    """Where no instance ever registered, one that is asked for is missing."""
    # GIVEN
    fleet = ecs_fleets.create()
    which = {"cluster": fleet.cluster, "containerInstances": ["none"]}

    # WHEN
    described = fleet.ecs.describe_container_instances(**which)
    drained = fleet.ecs.update_container_instances_state(**which, status="DRAINING")

    # THEN
    assert [each["reason"] for each in (*described["failures"], *drained["failures"])] == ["MISSING", "MISSING"]


def test_deregistered_container_instances_leave_orphans(ecs_fleets: Any) -> None:
    """Without force, tasks prevent it; with force, the container runs on, and ECS knows nothing of it any more."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    fleet.running(1)
    [instance] = fleet.instances()
    which = {"cluster": fleet.cluster, "containerInstance": instance["containerInstanceArn"]}
    exceptions = fleet.ecs.exceptions

    # WHEN
    with pytest.raises(exceptions.InvalidParameterException, match="Found running tasks on the instance"):
        fleet.ecs.deregister_container_instance(**which)
    answer = fleet.ecs.deregister_container_instance(**which, force=True)

    # THEN
    assert answer["containerInstance"]["status"] == "INACTIVE"
    assert (fleet.instances(), fleet.tasks()) == ([], [])
    [ended] = fleet.tasks(status="STOPPED")
    assert ended["stoppedReason"] == "Container instance deregistration forced by user"
    assert [machine.pid is not None for machine in fleet.machines().values()] == [True]
    with pytest.raises(exceptions.InvalidParameterException, match="not found"):
        fleet.ecs.deregister_container_instance(**which, force=True)


@pytest.mark.parametrize("attribute", ['{"bad name": "x"}', '{"name": "ends with a space "}', '["none"]', "{"])
def test_fails_with_bad_attributes(ecs_fleets: Any, attribute: str) -> None:
    """An instance whose configuration names an attribute that ECS does not accept is never registered."""
    # GIVEN
    template = ecs_fleets.template()
    data = template["Resources"]["NodeTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]
    lines = data["Fn::Sub"].splitlines()
    named = "ECS_INSTANCE_ATTRIBUTES="
    data["Fn::Sub"] = "\n".join(f"{named}{attribute}" if line.startswith(named) else line for line in lines) + "\n"
    fleet = ecs_fleets.create(template)

    # WHEN
    fleet.scale(4)
    [machine] = eventually(lambda: list(fleet.machines().values()))
    log = fleet.cloud.log
    eventually(log.read_text, lambda text: f"container agent of {machine.instance_id}:" in text)

    # THEN
    assert fleet.instances() == []
