"""Clusters, task definitions and services of templates, against the CloudFormation Template Reference."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.local_cloud.container_instances import ATTRIBUTE
from support.waiting import eventually


def refused(cloud: Any, stacks: Any, template: dict[str, Any]) -> str:
    """Create a stack that must fail, and return the reason."""
    del cloud
    stack = stacks.create(template)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    return str(stack["StackStatusReason"])


def test_clusters_of_templates_are_complete(cloud: Any, stacks: Any, ecs_fleets: Any) -> None:
    """A template's cluster has its settings and tags; with its stack it goes, and with it all that is in it."""
    # GIVEN
    template = ecs_fleets.template()
    template["Resources"]["Cluster"]["Properties"] = {
        "ClusterSettings": [{"Name": "containerInsights", "Value": "enabled"}],
        "Tags": [{"Key": "team", "Value": "ours"}],
    }
    template["Outputs"]["Arn"] = {"Value": {"Fn::GetAtt": ["Cluster", "Arn"]}}
    fleet = ecs_fleets.create(template)
    fleet.scale(4)
    fleet.running(1)
    describe = fleet.ecs.describe_clusters

    # WHEN
    [cluster] = describe(clusters=[fleet.cluster], include=["TAGS"])["clusters"]

    # THEN
    assert cluster["settings"] == [{"name": "containerInsights", "value": "enabled"}]
    assert (cluster["tags"], cluster["clusterArn"]) == ([{"key": "team", "value": "ours"}], fleet.outputs["Arn"])

    # WHEN somebody deletes what is not empty
    with pytest.raises(ClientError, match="ClusterContainsContainerInstancesException"):
        fleet.ecs.delete_cluster(cluster=fleet.cluster)

    # WHEN the stack goes
    ecs_fleets.made.clear()
    stacks.made.remove(fleet.stack)
    cloud.client("cloudformation").delete_stack(StackName=fleet.stack)

    # THEN
    assert describe(clusters=[fleet.cluster])["failures"][0]["reason"] == "MISSING"
    assert eventually(fleet.machines, lambda seen: not seen) == {}
    definition = fleet.ecs.describe_task_definition(taskDefinition=fleet.outputs["Task4"])["taskDefinition"]
    assert definition["status"] == "INACTIVE"


@pytest.mark.parametrize(
    "properties",
    [{"CapacityProviders": ["FARGATE"]}, {"DefaultCapacityProviderStrategy": [{"CapacityProvider": "FARGATE"}]}],
)
def test_fails_with_capacity_providers(cloud: Any, stacks: Any, properties: dict[str, Any]) -> None:
    """Capacity providers take no group with instance weights, and daemons take no provider: here there are none."""
    # WHEN
    reason = refused(cloud, stacks, {"Resources": {"Cluster": {"Type": "AWS::ECS::Cluster", "Properties": properties}}})

    # THEN
    assert "no Auto Scaling group with instance weights" in reason
    ecs = cloud.client("ecs")
    group = {"autoScalingGroupArn": "arn:aws:autoscaling:eu-west-1:123456789012:autoScalingGroup:1:a/b"}
    with pytest.raises(ecs.exceptions.ClientException, match="instance weights"):
        ecs.create_capacity_provider(name="weighted", autoScalingGroupProvider=group)


def test_task_definitions_of_templates_are_complete(ecs_fleets: Any) -> None:
    """All properties of a template's task definition are registered; numbers may be text, labels keep their case."""
    # GIVEN
    template = ecs_fleets.template()
    properties = template["Resources"]["Task4"]["Properties"]
    properties["ExecutionRoleArn"] = properties["TaskRoleArn"]
    properties["PlacementConstraints"] = [{"Type": "memberOf", "Expression": "attribute:ecs.os-type == linux"}]
    options = {"awslogs-group": "g", "Mode": "non-blocking"}
    [container] = properties["ContainerDefinitions"]
    container |= {
        "StopTimeout": "30",
        "VersionConsistency": "disabled",
        "DockerLabels": {"Team.Label": "x"},
        "Ulimits": [{"Name": "memlock", "SoftLimit": -1, "HardLimit": -1}],
        "LinuxParameters": {"Capabilities": {"Drop": ["ALL"]}},
        "LogConfiguration": {"LogDriver": "awslogs", "Options": options},
    }

    # WHEN
    fleet = ecs_fleets.create(template)
    made = fleet.ecs.describe_task_definition(taskDefinition=fleet.outputs["Task4"])["taskDefinition"]

    # THEN
    assert (made["networkMode"], made["ipcMode"]) == ("host", "host")
    assert made["taskRoleArn"] == made["executionRoleArn"]
    assert made["requiresCompatibilities"] == ["EC2"]
    assert made["placementConstraints"] == [{"type": "memberOf", "expression": "attribute:ecs.os-type == linux"}]
    [node] = made["containerDefinitions"]
    assert (node["stopTimeout"], node["versionConsistency"]) == (30, "disabled")
    assert (node["memoryReservation"], node["resourceRequirements"]) == (8192, [{"type": "GPU", "value": "4"}])
    assert (node["dockerLabels"], node["logConfiguration"]["options"]) == ({"Team.Label": "x"}, options)
    assert node["ulimits"] == [{"name": "memlock", "softLimit": -1, "hardLimit": -1}]
    assert {volume["name"]: volume["host"]["sourcePath"] for volume in made["volumes"]}["ml"] == "/var/lib/ml"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"NetworkMode": "awsvpc"}, "does not emulate networkMode awsvpc"),
        ({"RequiresCompatibilities": ["FARGATE"]}, "does not emulate requiresCompatibilities FARGATE"),
        ({"PidMode": "host"}, "does not emulate pidMode"),
        ({"Volumes": [{"Name": "v", "DockerVolumeConfiguration": {}}]}, "volumes.dockerVolumeConfiguration"),
        ({"Unheard": 1}, "Encountered unsupported property Unheard"),
        ({"Family": "a.b"}, "family must be 1 to 255 letters, numbers, hyphens and underscores, got a.b"),
        ({"Volumes": []}, "Unknown volume 'ml'."),
        ({"PlacementConstraints": [{"Type": "memberOf", "Expression": "x > 1"}]}, "the subject 'x' is not supported"),
    ],
)
def test_task_definitions_are_emulated_or_refused(
    cloud: Any, stacks: Any, ecs_fleets: Any, change: dict[str, Any], why: str
) -> None:
    """A parameter that would change what a task does, and is not emulated, is refused by its name."""
    # GIVEN
    template = ecs_fleets.template()
    template["Resources"]["Task4"]["Properties"] |= change

    # WHEN, THEN
    assert why in refused(cloud, stacks, template)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"healthCheck": {"command": ["CMD"]}}, "containerDefinitions.healthCheck"),
        ({"secrets": [{"name": "a", "valueFrom": "b"}]}, "containerDefinitions.secrets"),
        ({"restartPolicy": {"enabled": True}}, "containerDefinitions.restartPolicy"),
        ({"resourceRequirements": [{"type": "GPU", "value": "ALL"}]}, "resourceRequirements GPU ALL"),
        ({"mountPoints": [{"sourceVolume": "v", "containerPath": "/v"}]}, "Unknown volume 'v'"),
        ({"portMappings": [{"containerPort": 1, "hostPort": 2}]}, "host ports and container ports .* must match"),
        ({"memory": None}, "At least one of 'memory' or 'memoryReservation' must be specified"),
    ],
)
def test_containers_are_emulated_or_refused(cloud: Any, change: dict[str, Any], why: str) -> None:
    """The same holds for the definitions of containers, and for requests to the API."""
    # GIVEN
    ecs = cloud.client("ecs")
    container = {"name": "node", "image": "i", "memory": 9, **change}

    # WHEN, THEN
    with pytest.raises(ecs.exceptions.ClientException, match=why):
        ecs.register_task_definition(
            family="f",
            networkMode="host",
            containerDefinitions=[{name: value for name, value in container.items() if value is not None}],
            requiresCompatibilities=["EC2"],
        )


def test_memory_reservations_suffice(cloud: Any) -> None:
    """A task definition for EC2 needs memory or a reservation of it, not both."""
    # WHEN
    container = {"name": "node", "image": "i", "memoryReservation": 9}
    made = cloud.client("ecs").register_task_definition(
        family="reserves", containerDefinitions=[container], requiresCompatibilities=["EC2"]
    )

    # THEN
    assert made["taskDefinition"]["status"] == "ACTIVE"


def test_services_of_templates_are_complete(ecs_fleets: Any) -> None:
    """A template's service is the daemon that it declares; changed in place, it loses what is no longer declared."""
    # GIVEN
    template = ecs_fleets.template()
    template["Resources"]["Service4"]["Properties"]["AvailabilityZoneRebalancing"] = "DISABLED"
    template["Outputs"] |= {
        "Name4": {"Value": {"Fn::GetAtt": ["Service4", "Name"]}},
        "Arn4": {"Value": {"Fn::GetAtt": ["Service4", "ServiceArn"]}},
    }

    # WHEN
    fleet = ecs_fleets.create(template)
    made = fleet.service(4)

    # THEN
    assert (made["schedulingStrategy"], made["launchType"]) == ("DAEMON", "EC2")
    assert (made["serviceName"], made["serviceArn"]) == (fleet.outputs["Name4"], fleet.outputs["Arn4"])
    assert made["serviceArn"] == fleet.outputs["Service4"]
    assert made["taskDefinition"] == fleet.outputs["Task4"]
    wanted = f"attribute:{ATTRIBUTE} == {ecs_fleets.family} and attribute:ecs.instance-type in [g5.12xlarge]"
    assert made["placementConstraints"] == [{"type": "memberOf", "expression": wanted}]
    minimum = made["deploymentConfiguration"]["minimumHealthyPercent"]
    assert (minimum, made["deploymentConfiguration"]["maximumPercent"]) == (0, 100)

    # WHEN
    changed = copy.deepcopy(template)
    properties = changed["Resources"]["Service4"]["Properties"]
    properties["DeploymentConfiguration"]["MinimumHealthyPercent"] = 50
    del properties["PlacementConstraints"]
    fleet.update(changed)

    # THEN
    after = fleet.service(4)
    assert after["deploymentConfiguration"]["minimumHealthyPercent"] == 50
    assert after["placementConstraints"] == []
    assert [each["id"] for each in after["deployments"]] == [each["id"] for each in made["deployments"]]

    # WHEN it would have to be replaced
    properties["LaunchType"] = "EXTERNAL"

    # THEN
    with pytest.raises(ClientError, match="cannot change launchType of a service"):
        fleet.update(changed)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"SchedulingStrategy": "REPLICA"}, "services with the scheduling strategy DAEMON only"),
        ({"DesiredCount": 1}, "does not support a desired count"),
        ({"ForceNewDeployment": {"EnableForceNewDeployment": True}}, "unsupported property ForceNewDeployment"),
        ({"TaskDefinition": "none"}, "TaskDefinition not found"),
    ],
)
def test_fails_with_other_services(cloud: Any, stacks: Any, ecs_fleets: Any, change: dict[str, Any], why: str) -> None:
    """A template's service is refused as one of the API is, naming the resource."""
    # GIVEN
    template = ecs_fleets.template()
    template["Resources"]["Service4"]["Properties"] |= change

    # WHEN
    reason = refused(cloud, stacks, template)

    # THEN
    assert reason.startswith("Service4 (AWS::ECS::Service): ")
    assert why in reason


def test_references_follow_new_revisions(machines: Any, ecs_fleets: Any) -> None:
    """
    A deployment in mid-run leaves the tasks of a service that names a family alone, and keeps a retained revision.

    What refers to the task definition gets the new revision: outputs, and the state machine that then rolls the tasks.
    """
    # GIVEN a state machine that names the revision of its template
    template = ecs_fleets.template()
    call = {
        "Type": "Task",
        "Resource": "arn:aws:states:::aws-sdk:ecs:updateService",
        "Arguments": {"Cluster": "${Cluster}", "Service": "${Service4}", "TaskDefinition": "${Task4}"},
        "End": True,
    }
    definition = json.dumps({"QueryLanguage": "JSONata", "StartAt": "Only", "States": {"Only": call}})
    template["Resources"]["Machine"] = {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {
            "RoleArn": "arn:aws:iam::123456789012:role/any",
            "DefinitionString": {"Fn::Sub": definition},
        },
    }
    template["Outputs"]["Machine"] = {"Value": {"Ref": "Machine"}}
    fleet = ecs_fleets.create(template)
    fleet.scale(4)
    [before] = fleet.running(1)

    # WHEN
    changed = copy.deepcopy(template)
    changed["Resources"]["Task4"]["Properties"]["ContainerDefinitions"][0]["Image"] = "horovod:2"
    fleet.update(changed)

    # THEN
    outputs = {
        each["OutputKey"]: each["OutputValue"]
        for each in fleet.cloud.client("cloudformation").describe_stacks(StackName=fleet.stack)["Stacks"][0]["Outputs"]
    }
    newer = f"{fleet.outputs['Task4'].removesuffix(':1')}:2"
    assert (outputs["Task4"], outputs["Task1"]) == (newer, fleet.outputs["Task1"])
    assert [task["taskArn"] for task in fleet.tasks()] == [before["taskArn"]]
    describe = fleet.ecs.describe_task_definition
    assert describe(taskDefinition=fleet.outputs["Task4"])["taskDefinition"]["status"] == "ACTIVE"

    # WHEN
    started = machines.api.start_execution(stateMachineArn=fleet.outputs["Machine"])["executionArn"]
    ended = machines.finish(started)

    # THEN
    assert ended["status"] == "SUCCEEDED", ended
    [after] = eventually(
        fleet.tasks,
        lambda seen: seen and seen[0]["taskArn"] != before["taskArn"] and seen[0]["lastStatus"] == "RUNNING",
    )
    assert after["taskDefinitionArn"] == newer

    # WHEN a revision is not to be retained
    again = copy.deepcopy(changed)
    del again["Resources"]["Task4"]["UpdateReplacePolicy"]
    again["Resources"]["Task4"]["Properties"]["ContainerDefinitions"][0]["Image"] = "horovod:3"
    fleet.update(again)

    # THEN
    assert describe(taskDefinition=newer)["taskDefinition"]["status"] == "INACTIVE"
