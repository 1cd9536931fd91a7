"""Daemon services of ECS, against AWS's documented behaviour: placement, replacement, deployments, events."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from horovod_local import Faults, Refusal
from support.local_cloud.container_instances import ATTRIBUTE, TYPES, group, service, task_definition
from support.waiting import eventually


def at_large(fleet: Any, ecs_fleets: Any) -> dict[str, Any]:
    """Return a daemon's request for the nodes with four GPUs."""
    constraint = {"type": "memberOf", "expression": f"attribute:{ATTRIBUTE} == {ecs_fleets.family}"}
    return {
        "cluster": fleet.cluster,
        "serviceName": "more",
        "taskDefinition": fleet.outputs["Task4"],
        "schedulingStrategy": "DAEMON",
        "launchType": "EC2",
        "placementConstraints": [constraint],
    }


def register(fleet: Any, arn: str, **changes: Any) -> str:
    """Register a new revision of a task definition with changes of its container; return its ARN."""
    described = fleet.ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
    [container] = described["containerDefinitions"]
    request = {name: described[name] for name in ("family", "networkMode", "ipcMode", "taskRoleArn", "volumes")}
    made = fleet.ecs.register_task_definition(**request, containerDefinitions=[{**container, **changes}])
    return str(made["taskDefinition"]["taskDefinitionArn"])


def test_each_instance_that_fits_has_one_task(faults: Any, ecs_fleets: Any) -> None:
    """A daemon runs one task on each instance that meets its constraints; its service counts them."""
    # GIVEN
    fleet = ecs_fleets.create()

    # WHEN
    fleet.scale(4)
    fleet.running(1)
    faults.set_faults(Faults(refused=(Refusal(instance_type=TYPES[4]),)))
    fleet.scale(5)
    tasks = fleet.running(2)

    # THEN
    kinds = {each["containerInstanceArn"]: each["attributes"]["ecs.instance-type"] for each in fleet.instances()}
    placed = {
        kinds[task["containerInstanceArn"]]: (task["taskDefinitionArn"], len(task["containers"][0]["gpuIds"]))
        for task in tasks
    }
    assert placed == {"g5.12xlarge": (fleet.outputs["Task4"], 4), "g5.xlarge": (fleet.outputs["Task1"], 1)}
    four = eventually(lambda: fleet.service(4), lambda seen: seen["runningCount"] == 1)
    assert (four["schedulingStrategy"], four["desiredCount"], four["pendingCount"]) == ("DAEMON", 1, 0)
    [deployment] = four["deployments"]
    assert (deployment["status"], deployment["rolloutState"]) == ("PRIMARY", "COMPLETED")
    assert (deployment["runningCount"], deployment["desiredCount"]) == (1, 1)
    assert tasks[0]["startedBy"].startswith("ecs-svc/")
    name = four["serviceName"]
    events = eventually(lambda: fleet.events(4), lambda seen: "steady" in seen[0] and "started" in seen[1])
    [task] = fleet.tasks(serviceName=name)
    started = f"(service {name}) has started 1 tasks: (task {task['taskArn'].rpartition('/')[2]})."
    assert events[:2] == [f"(service {name}) has reached a steady state.", started]


def test_a_task_that_ends_is_started_again(ecs_fleets: Any) -> None:
    """A task whose container ended is replaced at once, on the same instance; it says how it ended."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    [first] = fleet.running(1)
    [machine] = fleet.machines().values()

    # WHEN
    os.kill(machine.pid, signal.SIGKILL)

    # THEN
    [second] = eventually(
        fleet.tasks, lambda seen: seen and seen[0]["taskArn"] != first["taskArn"] and seen[0]["lastStatus"] == "RUNNING"
    )
    assert second["containerInstanceArn"] == first["containerInstanceArn"]
    assert second["containers"][0]["gpuIds"] == first["containers"][0]["gpuIds"]
    [ended] = fleet.tasks(status="STOPPED")
    assert (ended["stopCode"], ended["stoppedReason"]) == (
        "EssentialContainerExited",
        "Essential container in task exited",
    )
    assert [(each["lastStatus"], each["exitCode"]) for each in ended["containers"]] == [("STOPPED", 137)]


def test_tasks_of_draining_instances_stop(ecs_fleets: Any) -> None:
    """A task stops when its instance drains, and comes back when the instance is active again."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    fleet.running(1)
    [instance] = fleet.instances()
    which = {"cluster": fleet.cluster, "containerInstances": [instance["containerInstanceArn"]]}

    # WHEN
    fleet.ecs.update_container_instances_state(**which, status="DRAINING")

    # THEN
    [ended] = eventually(
        lambda: fleet.tasks(status="STOPPED"), lambda seen: seen and seen[0]["lastStatus"] == "STOPPED"
    )
    assert ended["stopCode"] == "ServiceSchedulerInitiated"
    assert ended["stoppedReason"].startswith("Scaling activity initiated by (deployment ecs-svc/")
    assert (fleet.tasks(), fleet.service(4)["desiredCount"]) == ([], 0)

    # WHEN
    fleet.ecs.update_container_instances_state(**which, status="ACTIVE")

    # THEN
    assert len(fleet.running(1)) == 1


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"cpu": 48 * 1024 + 1}, "has insufficient CPU units available"),
        ({"memoryReservation": 196608}, "has insufficient memory available"),
        ({"resourceRequirements": [{"type": "GPU", "value": "8"}]}, "has insufficient GPU units available"),
    ],
    ids=["CPU", "memory", "GPUs"],
)
def test_what_does_not_fit_is_told_once(ecs_fleets: Any, change: dict[str, Any], lacks: str) -> None:
    """A daemon that does not fit on an instance says why, once, and is placed as soon as it fits."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    fleet.running(1)
    update = {"cluster": fleet.cluster, "service": fleet.outputs["Service4"]}
    name = fleet.service(4)["serviceName"]

    # WHEN
    fleet.ecs.update_service(**update, taskDefinition=register(fleet, fleet.outputs["Task4"], **change))
    told = eventually(lambda: [each for each in fleet.events(4) if "unable" in each])

    # THEN
    [instance] = fleet.instances()
    closest = instance["containerInstanceArn"].rpartition("/")[2]
    assert told == [
        f"(service {name}) was unable to place a task because no container instance met all of its requirements. The "
        f"closest matching (container-instance {closest}) {lacks}. For more information, see the Troubleshooting "
        "section of the Amazon ECS Developer Guide."
    ]

    # WHEN
    fleet.ecs.update_service(**update, taskDefinition=fleet.outputs["Task4"])

    # THEN
    assert len(fleet.running(1)) == 1
    assert [each for each in fleet.events(4) if "unable" in each] == told


def test_two_daemons_never_share_a_host_port(ecs_fleets: Any) -> None:
    """A second daemon with the same host port waits beside the first one."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    fleet.running(1)

    # WHEN
    smaller = register(fleet, fleet.outputs["Task4"], resourceRequirements=[])
    fleet.ecs.create_service(**{**at_large(fleet, ecs_fleets), "taskDefinition": smaller})

    # THEN
    described = eventually(
        lambda: fleet.ecs.describe_services(cluster=fleet.cluster, services=["more"])["services"][0],
        lambda seen: seen["events"],
    )
    assert "is already using a port required by your task" in described["events"][0]["message"]
    assert (described["desiredCount"], described["runningCount"]) == (1, 0)


def test_images_that_cannot_be_pulled(faults: Any, ecs_fleets: Any) -> None:
    """The task ends with CannotPullContainerError, ECS tries again ever later, and a cached image needs no pull."""
    # GIVEN
    fleet = ecs_fleets.create()
    faults.set_faults(Faults(images_pull=False))

    # WHEN
    fleet.scale(4)
    ended = eventually(lambda: fleet.tasks(status="STOPPED"), lambda seen: len(seen) >= 3)

    # THEN
    reason = "CannotPullContainerError: Error response from daemon: pull access denied for horovod:1"
    assert all(task["stoppedReason"].startswith(reason) for task in ended)
    assert {task["stopCode"] for task in ended} == {"TaskFailedToStart"}
    assert ended[0]["containers"][0]["reason"].startswith(reason)
    events = eventually(lambda: fleet.events(4), lambda seen: "unable to consistently" in seen[0])
    assert events[0].endswith("is unable to consistently start tasks successfully.")

    # WHEN the image can be pulled, and then is there
    faults.set_faults(Faults())
    [first] = fleet.running(1)
    faults.set_faults(Faults(images_pull=False))
    fleet.ecs.stop_task(cluster=fleet.cluster, task=first["taskArn"])

    # THEN
    [second] = eventually(
        fleet.tasks, lambda seen: seen and seen[0]["taskArn"] != first["taskArn"] and seen[0]["lastStatus"] == "RUNNING"
    )
    assert second["containerInstanceArn"] == first["containerInstanceArn"]


def test_roles_that_ecs_may_not_assume(ecs_fleets: Any) -> None:
    """A task whose role does not trust ECS is not started; the service says so in ECS's words."""
    # GIVEN
    template = ecs_fleets.template()
    trust = template["Resources"]["TaskRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    trust["Principal"] = {"Service": "ec2.amazonaws.com"}
    fleet = ecs_fleets.create(template)

    # WHEN
    fleet.scale(4)
    told = eventually(lambda: [each for each in fleet.events(4) if "failed" in each])

    # THEN
    assert "failed to launch a task with (error ECS was unable to assume the role 'arn:aws:iam::" in told[0]
    assert (len(told), fleet.tasks()) == (1, [])


def test_updated_services_are_deployed(ecs_fleets: Any) -> None:
    """UpdateService rolls the tasks if the revision differs or it is forced, and then only; at 0 % all at once."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(8)
    first = {task["taskArn"] for task in fleet.running(2)}
    update = {"cluster": fleet.cluster, "service": fleet.outputs["Service4"]}
    [deployment] = fleet.service(4)["deployments"]

    # WHEN the same revision is named, by ARN or by family
    fleet.ecs.update_service(**update, taskDefinition=fleet.outputs["Task4"])
    fleet.ecs.update_service(**update, taskDefinition=f"{ecs_fleets.family}-4")

    # THEN there is no deployment
    assert [each["id"] for each in fleet.service(4)["deployments"]] == [deployment["id"]]

    # WHEN another one is named
    newer = register(fleet, fleet.outputs["Task4"], image="horovod:2")
    answer = fleet.ecs.update_service(**update, taskDefinition=newer)["service"]

    # THEN
    assert [each["status"] for each in answer["deployments"]] == ["PRIMARY", "ACTIVE"]
    second = eventually(
        fleet.tasks,
        lambda seen: (
            len(seen) == 2
            and all(task["lastStatus"] == "RUNNING" for task in seen)
            and not first & {task["taskArn"] for task in seen}
        ),
    )
    assert {task["taskDefinitionArn"] for task in second} == {newer}
    [settled] = eventually(lambda: fleet.service(4)["deployments"], lambda seen: len(seen) == 1)
    assert (settled["taskDefinition"], settled["id"] != deployment["id"]) == (newer, True)

    # WHEN it is forced
    fleet.ecs.update_service(**update, forceNewDeployment=True)

    # THEN
    third = eventually(
        fleet.tasks,
        lambda seen: len(seen) == 2 and not {task["taskArn"] for task in second} & {task["taskArn"] for task in seen},
    )
    assert {task["taskDefinitionArn"] for task in third} == {newer}


def test_a_minimum_limits_a_deployment(ecs_fleets: Any) -> None:
    """With a minimum of 100 % no task may stop, so a deployment waits until the minimum is lowered."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    [first] = fleet.running(1)
    update = {"cluster": fleet.cluster, "service": fleet.outputs["Service4"]}
    strict = {"maximumPercent": 100, "minimumHealthyPercent": 100}

    # WHEN
    fleet.ecs.update_service(**update, deploymentConfiguration=strict, forceNewDeployment=True)
    eventually(lambda: fleet.service(4)["deployments"], lambda seen: seen[0]["desiredCount"] == 1)

    # THEN
    assert [each["runningCount"] for each in fleet.service(4)["deployments"]] == [0, 1]
    assert [task["taskArn"] for task in fleet.tasks()] == [first["taskArn"]]

    # WHEN
    fleet.ecs.update_service(**update, deploymentConfiguration={"minimumHealthyPercent": 0})

    # THEN
    eventually(fleet.tasks, lambda seen: seen and seen[0]["taskArn"] != first["taskArn"])
    assert first["taskArn"] in [task["taskArn"] for task in fleet.tasks(status="STOPPED")]


def test_constraints_can_change(ecs_fleets: Any) -> None:
    """Tasks that no longer meet the constraints stop; the change itself is no deployment."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    fleet.running(1)
    [deployment] = fleet.service(4)["deployments"]
    nobody = [{"type": "memberOf", "expression": "attribute:nobody exists"}]

    # WHEN
    update = {"cluster": fleet.cluster, "service": fleet.outputs["Service4"]}
    fleet.ecs.update_service(**update, placementConstraints=nobody)

    # THEN
    assert eventually(fleet.tasks, lambda seen: not seen) == []
    after = fleet.service(4)
    assert (after["placementConstraints"], after["deployments"][0]["id"]) == (nobody, deployment["id"])


def test_inactive_revisions_are_refused(ecs_fleets: Any) -> None:
    """A service cannot change to an inactive revision, but goes on with one that became inactive."""
    # GIVEN
    fleet = ecs_fleets.create()
    newer = register(fleet, fleet.outputs["Task4"], image="horovod:2")
    update = {"cluster": fleet.cluster, "service": fleet.outputs["Service4"]}

    # WHEN
    fleet.ecs.deregister_task_definition(taskDefinition=newer)
    fleet.ecs.deregister_task_definition(taskDefinition=fleet.outputs["Task4"])

    # THEN
    with pytest.raises(fleet.ecs.exceptions.ClientException, match="TaskDefinition is inactive"):
        fleet.ecs.update_service(**update, taskDefinition=newer)
    with pytest.raises(fleet.ecs.exceptions.ClientException, match="TaskDefinition not found"):
        fleet.ecs.update_service(**update, taskDefinition=f"{ecs_fleets.family}-4")
    fleet.scale(4)
    assert [task["taskDefinitionArn"] for task in fleet.running(1)] == [fleet.outputs["Task4"]]


def test_a_family_means_its_newest_active_revision(ecs_fleets: Any) -> None:
    """ "If a revision is not specified, the latest ACTIVE revision is used" (API Reference)."""
    # GIVEN
    fleet = ecs_fleets.create()
    newer = register(fleet, fleet.outputs["Task4"], image="horovod:2")
    describe = fleet.ecs.describe_task_definition

    # WHEN, THEN
    family = f"{ecs_fleets.family}-4"
    assert describe(taskDefinition=family)["taskDefinition"]["taskDefinitionArn"] == newer
    fleet.ecs.deregister_task_definition(taskDefinition=newer)
    assert describe(taskDefinition=family)["taskDefinition"]["taskDefinitionArn"] == fleet.outputs["Task4"]
    assert describe(taskDefinition=newer)["taskDefinition"]["status"] == "INACTIVE"
    fleet.ecs.deregister_task_definition(taskDefinition=fleet.outputs["Task4"])
    with pytest.raises(fleet.ecs.exceptions.ClientException, match="Unable to describe task definition"):
        describe(taskDefinition=family)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"desiredCount": 2}, "does not support a desired count for services. Remove the desired count"),
        (
            {"deploymentConfiguration": {"maximumPercent": 200}},
            "does not support values above 100 for maximumPercent on a deployment configuration",
        ),
        ({"placementStrategy": [{"type": "random"}]}, "does not support placement strategies"),
        (
            {"capacityProviderStrategy": [{"capacityProvider": "p"}], "launchType": None},
            "Specifying a capacity provider strategy is not supported when you create a service using the DAEMON",
        ),
        ({"launchType": "FARGATE"}, "not supported for the launch type FARGATE"),
        ({"deploymentController": {"type": "EXTERNAL"}}, "EXTERNAL deployment controller does not support DAEMON"),
        ({"availabilityZoneRebalancing": "ENABLED"}, "does not support Availability Zone rebalancing"),
        ({"schedulingStrategy": "REPLICA"}, "the local cloud runs services with the scheduling strategy DAEMON only"),
        ({"schedulingStrategy": None}, "scheduling strategy DAEMON only, got REPLICA"),
        ({"loadBalancers": [{"containerName": "node"}]}, "does not emulate loadBalancers"),
        (
            {"deploymentConfiguration": {"deploymentCircuitBreaker": {"enable": True, "rollback": True}}},
            "does not emulate deploymentConfiguration.deploymentCircuitBreaker",
        ),
        ({"placementConstraints": [{"type": "distinctInstance"}]}, "memberOf only, got distinctInstance"),
        ({"placementConstraints": [{"type": "memberOf", "expression": "a > b"}]}, "cannot evaluate the expression"),
        (
            {"placementConstraints": 11 * [{"type": "memberOf", "expression": "attribute:a exists"}]},
            "at most 10 placement constraints",
        ),
        (
            {"placementConstraints": [{"type": "memberOf", "expression": "attribute:a == " + 2000 * "b"}]},
            "at most 2000 characters",
        ),
    ],
)
def test_services_are_daemons(ecs_fleets: Any, changes: dict[str, Any], why: str) -> None:
    """CreateService refuses what a daemon cannot have, in ECS's words where they are known, and other services."""
    # GIVEN
    fleet = ecs_fleets.create()
    request = {**at_large(fleet, ecs_fleets), **changes}

    # WHEN, THEN
    with pytest.raises(fleet.ecs.exceptions.InvalidParameterException, match=why):
        fleet.ecs.create_service(**{name: value for name, value in request.items() if value is not None})


def test_deleted_services_stop_their_tasks(ecs_fleets: Any) -> None:
    """A deleted service drains, then is inactive, is not listed, and its name can be used again."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    fleet.running(1)
    name, arn = fleet.service(4)["serviceName"], fleet.outputs["Service4"]
    exceptions = fleet.ecs.exceptions
    again = {**at_large(fleet, ecs_fleets), "serviceName": name}
    with pytest.raises(exceptions.InvalidParameterException, match="Creation of service was not idempotent"):
        fleet.ecs.create_service(**again)

    # WHEN
    answer = fleet.ecs.delete_service(cluster=fleet.cluster, service=arn)["service"]

    # THEN
    assert answer["status"] == "DRAINING"
    assert arn not in fleet.ecs.list_services(cluster=fleet.cluster)["serviceArns"]
    assert eventually(lambda: fleet.service(4)["status"], lambda status: status == "INACTIVE") == "INACTIVE"
    assert (fleet.tasks(), len(fleet.tasks(status="STOPPED"))) == ([], 1)
    with pytest.raises(exceptions.ServiceNotActiveException, match="Service was not ACTIVE"):
        fleet.ecs.update_service(cluster=fleet.cluster, service=arn, forceNewDeployment=True)

    # WHEN, THEN
    fleet.ecs.create_service(**again)
    assert len(fleet.running(1)) == 1


def test_few_services_are_described_at_once(ecs_fleets: Any) -> None:
    """DescribeServices takes one to ten services, and names those that are missing as failures."""
    # GIVEN
    fleet = ecs_fleets.create()
    describe = fleet.ecs.describe_services

    # WHEN, THEN
    with pytest.raises(fleet.ecs.exceptions.InvalidParameterException, match="1 to 10, got 11"):
        describe(cluster=fleet.cluster, services=11 * [fleet.outputs["Service4"]])
    assert [each["reason"] for each in describe(cluster=fleet.cluster, services=["none"])["failures"]] == ["MISSING"]


def test_others_in_the_cluster(ecs_fleets: Any) -> None:
    """Our daemons leave others' instances alone; a daemon of theirs without constraints lands on ours, too."""
    # GIVEN another team's instances, and its daemon in the same cluster, which excludes nobody
    template = ecs_fleets.template()
    theirs = task_definition(f"{ecs_fleets.family}-logs", gpus=0, image="logs:1", ResourceRequirements=[])
    [container] = theirs["Properties"]["ContainerDefinitions"]
    container.update({"MountPoints": [], "PortMappings": [], "Name": "logs"})
    everywhere = service(f"{ecs_fleets.family}-logs", "attribute:ecs.os-type == linux")
    everywhere["DependsOn"] = ["LogsTask"]
    template["Resources"] |= {
        **group("Other", config={}, command=None, subnet=ecs_fleets.subnet),
        "LogsTask": theirs,
        "LogsService": everywhere,
    }
    template["Outputs"]["Other"] = {"Value": {"Ref": "OtherGroup"}}
    fleet = ecs_fleets.create(template)

    # WHEN
    fleet.scale(4)
    fleet.scale(4, group=fleet.outputs["Other"])
    tasks = fleet.running(3)

    # THEN
    ours = {each["containerInstanceArn"]: ATTRIBUTE in each["attributes"] for each in fleet.instances()}
    placed = sorted((ours[task["containerInstanceArn"]], task["containers"][0]["name"]) for task in tasks)
    assert placed == [(False, "logs"), (True, "logs"), (True, "node")]

    # WHEN their owners keep it away
    away = [{"type": "memberOf", "expression": f"attribute:{ATTRIBUTE} !exists"}]
    [logs] = [each for each in fleet.ecs.list_services(cluster=fleet.cluster)["serviceArns"] if "LogsService" in each]
    fleet.ecs.update_service(cluster=fleet.cluster, service=logs, placementConstraints=away)

    # THEN
    tasks = eventually(fleet.tasks, lambda seen: len(seen) == 2)
    placed = sorted((ours[task["containerInstanceArn"]], task["containers"][0]["name"]) for task in tasks)
    assert placed == [(False, "logs"), (True, "node")]


def test_state_machines_use_ecs(machines: Any, ecs_fleets: Any) -> None:
    """The calls of a state machine have the names of the SDK for Java, and so have their errors."""
    # GIVEN
    fleet = ecs_fleets.create()
    fleet.scale(4)
    [task] = fleet.running(1)
    sdk = "arn:aws:states:::aws-sdk:ecs:"
    service_of = {"Cluster": fleet.cluster, "Services": [fleet.outputs["Service4"]]}
    update = {"Cluster": fleet.cluster, "Service": fleet.outputs["Service4"]}

    def call(action: str, arguments: dict[str, Any]) -> Any:
        return {"Type": "Task", "Resource": f"{sdk}{action}", "Arguments": arguments}

    # WHEN
    services = machines.output(call("describeServices", service_of))["Services"]
    updated = machines.output(call("updateService", {**update, "TaskDefinition": fleet.outputs["Task4"]}))["Service"]
    listed = machines.output(call("listTasks", {"Cluster": fleet.cluster, "ServiceName": services[0]["ServiceName"]}))
    described = machines.output(call("describeTasks", {"Cluster": fleet.cluster, "Tasks": listed["TaskArns"]}))
    found = {"Cluster": fleet.cluster, "Filter": f"attribute:{ATTRIBUTE} == {ecs_fleets.family}"}
    instances = machines.output(call("listContainerInstances", found))["ContainerInstanceArns"]
    missing = machines.run(call("updateService", {**update, "Service": "none"}))
    inactive = machines.run(call("updateService", {**update, "TaskDefinition": "none"}))
    nowhere = machines.run(call("listTasks", {"Cluster": "none"}))

    # THEN
    assert (services[0]["RunningCount"], updated["TaskDefinition"]) == (1, fleet.outputs["Task4"])
    assert listed["TaskArns"] == [task["taskArn"]]
    assert (described["Tasks"][0]["LastStatus"], len(instances)) == ("RUNNING", 1)
    errors = [json.loads(json.dumps(each["error"])) for each in (missing, inactive, nowhere)]
    assert errors == ["Ecs.ServiceNotFoundException", "Ecs.ClientException", "Ecs.ClusterNotFoundException"]
