"""`Engine.ecs`: daemon services on the instances of a fleet, in a cluster of one's own or of another team."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Environment, Stack
from aws_cdk import aws_ecs as ecs

from cdk_horovod import Engine, HorovodTraining, TrainingNetwork, TrainingStorage
from cdk_horovod.engines.user_data import CONTAINER_INSTANCE_ML_ROOT
from horovod_node import contract
from support.construct_stacks import Stacks, flat, synthesise_validated
from support.ecs_stacks import (
    IMAGE,
    SERVICE,
    TASK,
    add_fleet,
    add_training,
    allowed,
    boot,
    build_own_and_shared,
    written,
)

pytestmark = pytest.mark.synth

CONFIG = "/etc/ecs/ecs.config"


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    return synthesise_validated(tmp_path_factory.mktemp("ecs"), build_own_and_shared)


def containers(stacks: Stacks, stack: str) -> dict[str, Mapping[str, Any]]:
    """Find the containers by the families of their task definitions."""
    found = {}
    for definition in stacks.resources(stack, TASK).values():
        (found[definition["Family"]],) = definition["ContainerDefinitions"]
    return found


def test_each_number_of_gpus_has_a_service(stacks: Stacks) -> None:
    """A node of a type gets the task that has all of its GPUs, and instances of others get none."""
    # GIVEN
    services = stacks.resources("Own", SERVICE, id="TrainingEcsOwnFleet")
    # WHEN
    placed = {
        service["TaskDefinition"]: [
            (each["Type"], re.sub(r"-\w{8}\b", "-HASH", each["Expression"])) for each in service["PlacementConstraints"]
        ]
        for service in services.values()
    }
    # THEN
    (one,) = [family for family in placed if family.endswith("-1")]
    (four,) = [family for family in placed if family.endswith("-4")]
    mine = "attribute:cdk-horovod.fleet == Own-Fleet-HASH and attribute:ecs.instance-type in"
    assert placed == {
        one: [("memberOf", f"{mine} [g5.xlarge, g5.4xlarge]")],
        four: [("memberOf", f"{mine} [g5.12xlarge]")],
    }
    assert {family: container["ResourceRequirements"] for family, container in containers(stacks, "Own").items()} == {
        one: [{"Type": "GPU", "Value": "1"}],
        four: [{"Type": "GPU", "Value": "4"}],
        **{
            family: [{"Type": "GPU", "Value": "8"}]
            for family in containers(stacks, "Own")
            if family.startswith("Own-Second-")
        },
    }


def test_services_follow_their_instances_and_no_deployment(stacks: Stacks) -> None:
    """A service is a daemon without a capacity provider, and it names a family, so that a deployment rolls no task."""
    for stack in ("Own", "Shared"):
        families = {definition["Family"] for definition in stacks.resources(stack, TASK).values()}
        for service in stacks.resources(stack, SERVICE).values():
            assert service["TaskDefinition"] in families
            assert {key: value for key, value in service.items() if key not in ("PlacementConstraints", "Cluster")} == {
                "AvailabilityZoneRebalancing": "DISABLED",
                "DeploymentConfiguration": {"MaximumPercent": 100, "MinimumHealthyPercent": 0},
                "LaunchType": "EC2",
                "SchedulingStrategy": "DAEMON",
                "TaskDefinition": service["TaskDefinition"],
            }


def test_revisions_outlive_a_deployment(stacks: Stacks) -> None:
    """A queued run finds the revision of its own template, and a stack that is deleted leaves none."""
    for resource in stacks.templates["Own"].find_resources(TASK).values():
        assert (resource["UpdateReplacePolicy"], resource["DeletionPolicy"]) == ("Retain", "Delete")


def test_container_has_what_it_has_on_ec2(stacks: Stacks) -> None:
    """The host's network and memory, no limits on locked memory, no capabilities, its folders, and a log."""
    # WHEN
    definition, *_ = (each for each in stacks.resources("Own", TASK).values() if each["Family"].endswith("-4"))
    (container,) = definition["ContainerDefinitions"]
    # THEN
    assert (definition["NetworkMode"], definition["IpcMode"]) == ("host", "host")
    assert "Cpu" not in definition
    assert "Memory" not in definition
    assert container["Image"] == "123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"
    assert (container["StopTimeout"], container["VersionConsistency"]) == (30, "disabled")
    assert {each["Name"]: (each["SoftLimit"], each["HardLimit"]) for each in container["Ulimits"]} == {
        "memlock": (-1, -1),
        "stack": (67_108_864, 67_108_864),
    }
    assert container["DockerSecurityOptions"] == ["no-new-privileges"]
    assert container["LinuxParameters"] == {"Capabilities": {"Drop": ["ALL"]}}
    assert container["PortMappings"] == [
        {"ContainerPort": contract.RENDEZVOUS_PORT, "HostPort": contract.RENDEZVOUS_PORT, "Protocol": "tcp"}
    ]
    hosts = {volume["Name"]: volume["Host"]["SourcePath"] for volume in definition["Volumes"]}
    assert [
        (hosts[each["SourceVolume"]], each["ContainerPath"], each["ReadOnly"]) for each in container["MountPoints"]
    ] == [
        (CONTAINER_INSTANCE_ML_ROOT, contract.DEFAULT_ML_ROOT, False),
        (str(Path(contract.NODE_ENV_FILE).parent), str(Path(contract.NODE_ENV_FILE).parent), True),
    ]
    log = container["LogConfiguration"]
    assert (log["LogDriver"], log["Options"]["mode"]) == ("awslogs", "non-blocking")
    assert flat(log["Options"]["awslogs-group"]).startswith("TrainingNodeLogs")


def test_a_task_claims_the_smallest_instance_but_for_some_room(stacks: Stacks) -> None:
    """A tenth of a g5.xlarge and of a g5.12xlarge is left to others, or what was asked for, and some memory always."""
    claims = {
        family.rpartition("-")[2]: (container["Cpu"], container["MemoryReservation"])
        for stack in ("Own", "Shared")
        for family, container in containers(stacks, stack).items()
        if "-Second-" not in family
    }
    assert claims == {
        "1": (int(4 * 1024 * 0.9), int(16 * 1024 * 0.9)),
        "4": (int(48 * 1024 * 0.9), int(192 * 1024 * 0.9)),
        "8": (int(96 * 1024 * 0.75), int(1152 * 1024 * 0.75)),
    }


def test_kernel_keeps_its_memory_where_others_get_no_room() -> None:
    """Without room for others a task claims all processors, and the memory that an instance may register."""
    # GIVEN
    app = App()
    stack = Stack(app, "Stack")
    fleet = add_fleet(stack, "Fleet", network=TrainingNetwork(stack, "Network", ecs=True), instance_types=["g5.xlarge"])
    # WHEN
    add_training(stack, fleet, room=0)
    # THEN
    resources = app.synth().get_stack_by_name("Stack").template["Resources"]
    (definition,) = (each["Properties"] for each in resources.values() if each["Type"] == TASK)
    (container,) = definition["ContainerDefinitions"]
    assert (container["Cpu"], container["MemoryReservation"]) == (4 * 1024, int(16 * 1024 * 0.9))


def test_instances_join_the_cluster_as_their_fleets(stacks: Stacks) -> None:
    """The agent's configuration names cluster and fleet, and the environment is that of every node."""
    # WHEN
    script = boot(stacks, "Own", "Fleet")
    config, environment = written(script, CONFIG), written(script, contract.NODE_ENV_FILE)
    # THEN
    (cluster,) = stacks.resources("Own", "AWS::ECS::Cluster")
    (family, *_) = (name for name in containers(stacks, "Own") if name.startswith("Own-Fleet-"))
    assert config == {
        "ECS_CLUSTER": cluster,
        "ECS_INSTANCE_ATTRIBUTES": json.dumps({"cdk-horovod.fleet": family.rpartition("-")[0]}),
        "ECS_ENABLE_SPOT_INSTANCE_DRAINING": "false",
        "ECS_DISABLE_METRICS": "true",
        "ECS_DISABLE_DOCKER_HEALTH_CHECK": "true",
        "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
        "ECS_TASK_PIDS_LIMIT": "65536",
        "ECS_SELINUX_CAPABLE": "true",
    }
    assert environment[contract.ENV_ENGINE] == contract.ENGINE_ECS
    assert environment[contract.ENV_FLEET].startswith("OwnFleet")
    assert environment[contract.ENV_TRAINING].startswith("OwnTraining")
    assert "docker run" not in script


def test_adapters_and_their_settings_reach_a_node(stacks: Stacks) -> None:
    """With a machine image of one's own, a task gets its instance's Elastic Fabric Adapters."""
    (container,) = containers(stacks, "Shared").values()
    assert container["LinuxParameters"]["Devices"] == [
        {"HostPath": f"/dev/infiniband/uverbs{number}"} for number in range(4)
    ]
    assert written(boot(stacks, "Shared", "Fleet"), contract.NODE_ENV_FILE)["FI_PROVIDER"] == "efa"


def test_a_cluster_of_another_team_is_not_changed(stacks: Stacks) -> None:
    """Only task definitions and services are added to a cluster that was given."""
    assert {kind for kind in stacks.kinds("Own") if kind.startswith("AWS::ECS::")} == {
        TASK,
        SERVICE,
        "AWS::ECS::Cluster",
    }
    assert {kind for kind in stacks.kinds("Shared") if kind.startswith("AWS::ECS::")} == {TASK, SERVICE}
    (service,) = stacks.resources("Shared", SERVICE).values()
    assert service["Cluster"] == "team"
    assert [each["Expression"] for each in service["PlacementConstraints"]][1:] == [
        "attribute:ecs.instance-type =~ p4.*",
        "attribute:ecs.os-type == linux",
    ]
    for machine in ("TrainingStateMachine", "TrainingCleanUpStateMachine", "TrainingReaperStateMachine"):
        assert not [action for action in allowed(stacks, "Shared", machine) if "ontainerInstance" in action]


def test_cluster_may_be_in_another_stack_of_the_app(tmp_path: Path) -> None:
    """A platform team's stack has the cluster, a training's stack uses it, and cdk-nag finds nothing in either."""

    def build(app: App) -> None:
        platform = Stack(app, "Platform")
        network = TrainingNetwork(platform, "Network", ecs=True)
        cluster = ecs.Cluster(platform, "Cluster", vpc=network.vpc, container_insights_v2=ecs.ContainerInsights.ENABLED)
        team = Stack(app, "Team")
        add_training(team, add_fleet(team, "Fleet", network=network), cluster=cluster)

    # WHEN
    stacks = synthesise_validated(tmp_path / "cdk.out", build)
    # THEN
    assert {kind for kind in stacks.kinds("Team") if kind.startswith("AWS::ECS::")} == {TASK, SERVICE}
    polled = allowed(stacks, "Team", "FleetRole")["ecs:Poll"]
    assert [each for each in polled if re.search(r":container-instance/Platform:ExportsOutputRefCluster\w+/\*$", each)]


def test_engine_has_the_cluster_once_it_is_bound() -> None:
    """A new cluster can be used by others of the app, when there is one."""
    # GIVEN
    stack = Stack()
    network = TrainingNetwork(stack, "Network", ecs=True)
    engine = Engine.ecs(add_fleet(stack, "Fleet", network=network))
    with pytest.raises(ValueError, match=r"^'cluster' exists when the engine was passed to HorovodTraining, got none"):
        _ = engine.cluster
    # WHEN
    HorovodTraining(stack, "Training", storage=TrainingStorage(stack, "Storage"), image=IMAGE, engine=engine)
    # THEN
    assert isinstance(engine.cluster, ecs.Cluster)


@pytest.mark.parametrize("place", ["eu-west-1:210987654321", "us-east-1:123456789012"])
def test_fails_when_the_cluster_is_elsewhere(place: str) -> None:
    """Instances can join a cluster of their own account and Region only."""
    # GIVEN
    stack = Stack(App(), "Here", env=Environment(account="123456789012", region="eu-west-1"))
    network = TrainingNetwork(stack, "Network", ecs=True, availability_zones=["eu-west-1a"])
    fleet = add_fleet(stack, "Fleet", network=network)
    cluster = ecs.Cluster.from_cluster_arn(stack, "Theirs", f"arn:aws:ecs:{place}:cluster/team")
    # WHEN
    with pytest.raises(ValueError, match="must be in") as refused:
        Engine.ecs(fleet, cluster=cluster)
    # THEN
    region, _, account = place.partition(":")
    assert str(refused.value) == (
        f"'cluster' must be in the fleet's account and Region, got team in {account}, {region}"
    )


def test_cluster_of_an_unknown_place_is_accepted() -> None:
    """A stack without a fixed environment may be deployed where the cluster is."""
    stack = Stack()
    network = TrainingNetwork(stack, "Network", ecs=True)
    cluster = ecs.Cluster.from_cluster_arn(stack, "Theirs", "arn:aws:ecs:eu-west-1:123456789012:cluster/team")
    assert Engine.ecs(add_fleet(stack, "Fleet", network=network), cluster=cluster).cluster is cluster
