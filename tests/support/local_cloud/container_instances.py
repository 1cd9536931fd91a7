"""
A cluster with two daemon services by number of GPUs, and a fleet whose instances join it: one small template.

The instances' user data writes the container agent's configuration and the node's environment, as the ECS engine's
does. The node's container runs the shell command in `TEST_COMMAND` of its environment.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horovod_local import LocalCloud
from horovod_node import contract
from support.local_cloud.emulated_resources import Stacks
from support.waiting import eventually

ACCOUNT = "123456789012"
ATTRIBUTE = "team.fleet"
NODE_FOLDER = contract.NODE_ENV_FILE.rpartition("/")[0]
TYPES = {4: "g5.12xlarge", 1: "g5.xlarge"}
WAIT = "sleep 600"
"""Command of a node that waits until it is stopped."""


def agent_permissions(cluster: Any) -> list[dict[str, Any]]:
    """Write the statements that the container agent needs."""
    own = ["RegisterContainerInstance", "SubmitTaskStateChange", "SubmitContainerStateChange"]
    instances = {"Fn::Sub": ["arn:aws:ecs:${AWS::Region}:${AWS::AccountId}:container-instance/${Name}/*", cluster]}
    return [
        {"Effect": "Allow", "Action": [f"ecs:{name}" for name in own], "Resource": {"Fn::GetAtt": ["Cluster", "Arn"]}},
        {"Effect": "Allow", "Action": "ecs:Poll", "Resource": instances},
        {"Effect": "Allow", "Action": "ecs:DiscoverPollEndpoint", "Resource": "*"},
    ]


def role(service: str, statements: Sequence[Mapping[str, Any]], **condition: Any) -> dict[str, Any]:
    """Write a role that *service* may assume."""
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}, "Condition": condition}
    policy = {"PolicyName": "own", "PolicyDocument": {"Version": "2012-10-17", "Statement": list(statements)}}
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": trust},
            "Policies": [policy] if statements else [],
        },
    }


def task_definition(family: str, *, gpus: int, image: str = "horovod:1", **container: Any) -> dict[str, Any]:
    """Write a task definition of nodes with *gpus* GPUs, whose revisions are retained."""
    mounts = {"ml": ("/var/lib/ml", contract.DEFAULT_ML_ROOT, False), "env": (NODE_FOLDER, NODE_FOLDER, True)}
    node = {
        "Name": "node",
        "Image": image,
        "Cpu": 2048,
        "MemoryReservation": 8192,
        "PortMappings": [{"ContainerPort": 29400}],
        "StopTimeout": 2,
        "ResourceRequirements": [{"Type": "GPU", "Value": str(gpus)}],
        "MountPoints": [
            {"SourceVolume": name, "ContainerPath": path, "ReadOnly": read_only}
            for name, (_, path, read_only) in mounts.items()
        ],
        **container,
    }
    return {
        "Type": "AWS::ECS::TaskDefinition",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "Family": family,
            "NetworkMode": "host",
            "IpcMode": "host",
            "RequiresCompatibilities": ["EC2"],
            "TaskRoleArn": {"Fn::GetAtt": ["TaskRole", "Arn"]},
            "Volumes": [{"Name": name, "Host": {"SourcePath": source}} for name, (source, _, _) in mounts.items()],
            "ContainerDefinitions": [node],
        },
    }


def service(family: str, expression: str, **properties: Any) -> dict[str, Any]:
    """Write a daemon service of the newest revision of *family*."""
    return {
        "Type": "AWS::ECS::Service",
        "DependsOn": [name for name in (f"Task{family.rpartition('-')[2]}",) if name[4:].isdigit()],
        "Properties": {
            "Cluster": {"Ref": "Cluster"},
            "TaskDefinition": family,
            "SchedulingStrategy": "DAEMON",
            "LaunchType": "EC2",
            "PlacementConstraints": [{"Type": "memberOf", "Expression": expression}],
            "DeploymentConfiguration": {"MinimumHealthyPercent": 0, "MaximumPercent": 100},
            **properties,
        },
    }


def group(name: str, *, config: Mapping[str, str], command: str | None, subnet: str) -> dict[str, Any]:
    """
    Write launch template and group of instances that join the cluster.

    Args:
        name: Prefix of the logical ids.
        config: Further variables of the container agent.
        command: Command of a node's container; None for instances that are no nodes.
        subnet: Id of the subnet.
    """
    node = "" if command is None else f"{contract.ENV_ENGINE}=ecs\nAWS_REGION=eu-west-1\nTEST_COMMAND={command}\n"
    written = f"cat > '{contract.NODE_ENV_FILE}' <<'NODE'\n{node}NODE\n" if node else ""
    settings = "".join(f"{key}={value}\n" for key, value in config.items())
    script = f"#!/bin/bash\n{written}cat > '/etc/ecs/ecs.config' <<'ECS'\nECS_CLUSTER=${{Cluster}}\n{settings}ECS\n"
    template = {
        "ImageId": "ami-1",
        "InstanceType": TYPES[1],
        "IamInstanceProfile": {"Arn": {"Fn::GetAtt": ["Profile", "Arn"]}},
        "UserData": {"Fn::Base64": {"Fn::Sub": script}},
    }
    return {
        f"{name}Template": {"Type": "AWS::EC2::LaunchTemplate", "Properties": {"LaunchTemplateData": template}},
        f"{name}Group": {
            "Type": "AWS::AutoScaling::AutoScalingGroup",
            "Properties": {
                "MinSize": "0",
                "MaxSize": "16",
                "VPCZoneIdentifier": [subnet],
                "MixedInstancesPolicy": {
                    "InstancesDistribution": {"OnDemandBaseCapacity": 16, "OnDemandAllocationStrategy": "prioritized"},
                    "LaunchTemplate": {
                        "LaunchTemplateSpecification": {
                            "LaunchTemplateId": {"Ref": f"{name}Template"},
                            "Version": {"Fn::GetAtt": [f"{name}Template", "LatestVersionNumber"]},
                        },
                        "Overrides": [
                            {"InstanceType": kind, "WeightedCapacity": str(gpus)} for gpus, kind in TYPES.items()
                        ],
                    },
                },
            },
        },
    }


def cluster_template(
    family: str, *, subnet: str, command: str = WAIT, task_statements: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """
    Write the template: cluster, roles, a daemon for each number of GPUs, and a group of nodes.

    Args:
        family: Prefix of the families, and value of the nodes' attribute.
        subnet: Id of the nodes' subnet.
        command: Command of the nodes' containers.
        task_statements: What the task role may do.
    """
    within = {
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
        "ArnLike": {"aws:SourceArn": {"Fn::Sub": "arn:aws:ecs:${AWS::Region}:${AWS::AccountId}:*"}},
    }
    resources: dict[str, Any] = {
        "Cluster": {"Type": "AWS::ECS::Cluster"},
        "InstanceRole": role("ec2.amazonaws.com", agent_permissions({"Name": {"Ref": "Cluster"}})),
        "Profile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": [{"Ref": "InstanceRole"}]}},
        "TaskRole": role("ecs-tasks.amazonaws.com", task_statements, **within),
        **group(
            "Node",
            config={
                "ECS_INSTANCE_ATTRIBUTES": json.dumps({ATTRIBUTE: family}),
                "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
            },
            command=command,
            subnet=subnet,
        ),
    }
    for gpus, kind in TYPES.items():
        resources[f"Task{gpus}"] = task_definition(f"{family}-{gpus}", gpus=gpus)
        expression = f"attribute:{ATTRIBUTE} == {family} and attribute:ecs.instance-type in [{kind}]"
        resources[f"Service{gpus}"] = service(f"{family}-{gpus}", expression)
    outputs = {
        "Cluster": {"Ref": "Cluster"},
        "Group": {"Ref": "NodeGroup"},
        **{f"{name}{gpus}": {"Ref": f"{name}{gpus}"} for name in ("Task", "Service") for gpus in TYPES},
    }
    return {"Resources": resources, "Outputs": {name: {"Value": value} for name, value in outputs.items()}}


@dataclass(frozen=True, kw_only=True)
class EcsFleet:
    """
    The deployed template.

    Args:
        cloud: The cloud.
        stack: Name of the stack.
        outputs: Its outputs.
    """

    cloud: LocalCloud
    stack: str
    outputs: Mapping[str, str]

    @property
    def ecs(self) -> Any:
        """The ECS client of the administrator."""
        return self.cloud.client("ecs")

    @property
    def cluster(self) -> str:
        """Name of the cluster."""
        return self.outputs["Cluster"]

    def scale(self, capacity: int, *, group: str | None = None) -> None:
        """Ask for *capacity* GPUs, in the nodes' group or another one."""
        name = group or self.outputs["Group"]
        self.cloud.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=name, DesiredCapacity=capacity)

    def instances(self, **request: Any) -> list[dict[str, Any]]:
        """Describe the container instances, their attributes as a mapping."""
        arns = self.ecs.list_container_instances(cluster=self.cluster, **request)["containerInstanceArns"]
        if not arns:
            return []
        described = self.ecs.describe_container_instances(cluster=self.cluster, containerInstances=arns)
        return [
            {**instance, "attributes": {each["name"]: each.get("value") for each in instance["attributes"]}}
            for instance in described["containerInstances"]
        ]

    def tasks(self, *, status: str = "RUNNING", **request: Any) -> list[dict[str, Any]]:
        """Describe the tasks that shall run, or those that have stopped."""
        arns = self.ecs.list_tasks(cluster=self.cluster, desiredStatus=status, **request)["taskArns"]
        described = self.ecs.describe_tasks(cluster=self.cluster, tasks=arns)["tasks"] if arns else []
        return list(described)

    def running(self, count: int, **request: Any) -> list[dict[str, Any]]:
        """Wait until *count* tasks run, and nothing else is on the way; describe them."""
        found: list[dict[str, Any]] = eventually(
            lambda: self.tasks(**request),
            lambda tasks: len(tasks) == count and all(task["lastStatus"] == "RUNNING" for task in tasks),
        )
        return found

    def service(self, gpus: int) -> dict[str, Any]:
        """Describe the service of nodes with *gpus* GPUs."""
        answer = self.ecs.describe_services(cluster=self.cluster, services=[self.outputs[f"Service{gpus}"]])
        return dict(answer["services"][0])

    def events(self, gpus: int) -> list[str]:
        """List the messages of a service's events, newest first."""
        return [event["message"] for event in self.service(gpus)["events"]]

    def machines(self) -> dict[str, Any]:
        """The cloud's own view of the instances of the nodes' group, by id."""
        return {each.instance_id: each for each in self.cloud.instances() if each.group == self.outputs["Group"]}

    def node_log(self, instance_id: str) -> Path:
        """The file with the output of an instance's node."""
        return Path(self.machines()[instance_id].log)

    def empty(self) -> None:
        """Remove what would keep the cluster when its stack is deleted: services of others, and lost instances."""
        for arn in self.ecs.list_services(cluster=self.cluster)["serviceArns"]:
            self.ecs.delete_service(cluster=self.cluster, service=arn)
        for instance in self.instances(filter="agentConnected == false"):
            which = instance["containerInstanceArn"]
            self.ecs.deregister_container_instance(cluster=self.cluster, containerInstance=which, force=True)

    def update(self, template: Mapping[str, Any]) -> None:
        """Deploy another template into the stack."""
        self.cloud.client("cloudformation").update_stack(StackName=self.stack, TemplateBody=json.dumps(template))


class EcsFleets:
    """Deploys the template, as often as a test wants."""

    def __init__(self, cloud: LocalCloud, stacks: Stacks) -> None:
        self._cloud = cloud
        self._stacks = stacks
        self.subnet = str(cloud.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"])
        self.family = f"family-{uuid.uuid4()}"
        self.made: list[EcsFleet] = []

    def template(self, **arguments: Any) -> dict[str, Any]:
        """Write the template; see `cluster_template`."""
        return cluster_template(self.family, subnet=self.subnet, **arguments)

    def create(self, template: Mapping[str, Any] | None = None, **arguments: Any) -> EcsFleet:
        """Deploy *template*, or that of *arguments*."""
        stack = self._stacks.create(dict(template or self.template(**arguments)))
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack.get("StackStatusReason")
        self.made.append(EcsFleet(cloud=self._cloud, stack=stack["StackName"], outputs=stack["outputs"]))
        return self.made[-1]
