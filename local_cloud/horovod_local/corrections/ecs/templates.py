"""
CloudFormation of clusters, task definitions and services.

Source: AWS CloudFormation Template Reference, AWS::ECS::Cluster, AWS::ECS::TaskDefinition and AWS::ECS::Service:
properties, return values, and whether an update replaces. Properties are those of the API, in PascalCase.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from botocore.model import ListShape, MapShape, Shape, StructureShape

from horovod_client.aws import java_names
from horovod_local.corrections.ecs import scheduling, services
from horovod_local.corrections.registry import correction

CLUSTER: Final = "AWS::ECS::Cluster"
TASK_DEFINITION: Final = "AWS::ECS::TaskDefinition"
SERVICE: Final = "AWS::ECS::Service"
RETAIN: Final = "Retain"

_RENAMED: Final = {"PlacementStrategies": "placementStrategy", "ClusterSettings": "settings"}
"""Properties with another name than the member of the API."""
_REPLACES_SERVICE: Final = ("cluster", "launchType", "schedulingStrategy", "serviceName")
"""Members of a service that CloudFormation changes by replacement only."""


@correction(
    moto="drops the settings, tags and capacity providers of a template's cluster, and leaves it when the stack goes",
    aws="creates it as declared and deletes it with the stack, unless it still has instances, services or tasks",
)
def clusters_of_templates_are_complete() -> None:
    from moto.ecs.models import Cluster, EC2ContainerServiceBackend
    from moto.ecs.responses import EC2ContainerServiceResponse

    def create(resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_kwargs: Any) -> Any:
        given = _arguments(cloudformation_json, "createCluster")
        _refuse_capacity_providers(given)
        return _backend(account_id, region_name).create_cluster(
            resource_name,
            tags=given.get("tags"),
            cluster_settings=given.get("settings"),
            configuration=given.get("configuration"),
        )

    def update(*, original_resource: Any, cloudformation_json: Any, **_identity: Any) -> Any:
        given = _arguments(cloudformation_json, "createCluster")
        _refuse_capacity_providers(given)
        if given.get("clusterName", original_resource.name) != original_resource.name:
            raise ValueError("the local cloud cannot rename a cluster; deploy into a new local cloud")
        original_resource.tags = given.get("tags") or []
        original_resource.settings = given.get("settings") or original_resource.settings
        return original_resource

    def delete(self: Any, account_id: str, region_name: str) -> None:
        _backend(account_id, region_name).delete_cluster(self.name)

    mark_inactive = EC2ContainerServiceBackend.delete_cluster

    def delete_cluster(self: Any, cluster_str: str) -> Any:
        cluster = self._get_cluster(cluster_str)
        # Instances that were terminated a moment ago, and services without tasks, are no obstacle.
        scheduling.advance(self.account_id, self.region_name, now=0.0)
        _refuse_to_delete(cluster)
        deleted = mark_inactive(self, cluster_str)
        del self.clusters[cluster.name]
        return deleted

    def refuse(self: Any) -> Any:
        _refuse_capacity_providers({"capacityProviders": [self._get_param("name") or "capacity providers"]})

    Cluster.create_from_cloudformation_json = staticmethod(create)
    Cluster.update_from_cloudformation_json = staticmethod(update)
    Cluster.delete = delete
    EC2ContainerServiceBackend.delete_cluster = delete_cluster
    EC2ContainerServiceResponse.create_capacity_provider = refuse
    EC2ContainerServiceResponse.put_cluster_capacity_providers = refuse


@correction(
    moto="keeps family, containers, volumes and memory of a template's task definition only, and ignores Retain",
    aws="registers all of it, and deregisters a revision that is replaced or deleted, unless it is to be retained",
)
def task_definitions_of_templates_are_complete() -> None:
    from moto.ecs.models import TaskDefinition

    def create(resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_kwargs: Any) -> Any:
        given = _arguments(cloudformation_json, "registerTaskDefinition")
        given.setdefault("family", resource_name)
        parameters = {_snake(name): value for name, value in given.items()}
        return _backend(account_id, region_name).register_task_definition(**parameters)

    def update(
        *, original_resource: Any, new_resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
    ) -> Any:
        # Without a family in the template, the generated one stays.
        replacement = create(
            new_resource_name if "Family" in cloudformation_json["Properties"] else original_resource.family,
            cloudformation_json,
            account_id,
            region_name,
        )
        if cloudformation_json.get("UpdateReplacePolicy") != RETAIN:
            original_resource.delete(account_id, region_name)
        return replacement

    def delete(self: Any, account_id: str, region_name: str) -> None:
        _backend(account_id, region_name).deregister_task_definition(self.arn)

    def attribute(self: Any, attribute_name: str) -> str:
        return str({"TaskDefinitionArn": self.arn}[attribute_name])

    TaskDefinition.create_from_cloudformation_json = staticmethod(create)
    TaskDefinition.update_from_cloudformation_json = staticmethod(update)
    TaskDefinition.delete = delete
    TaskDefinition.get_cfn_attribute = attribute
    TaskDefinition.has_cfn_attr = staticmethod(lambda attr: attr == "TaskDefinitionArn")


@correction(
    moto="makes a template's service a REPLICA service without constraints, and leaves it when the stack goes",
    aws="creates and updates it as declared, and deletes it with the stack",
)
def services_of_templates_are_complete() -> None:
    from moto.ecs.models import Service

    def create(resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_kwargs: Any) -> Any:
        given = _arguments(cloudformation_json, "createService")
        return services.create(_backend(account_id, region_name), {**given, "serviceName": resource_name})

    def update(
        *, original_resource: Any, cloudformation_json: Any, account_id: str, region_name: str, **_kw: Any
    ) -> Any:
        given = _arguments(cloudformation_json, "createService")
        backend = _backend(account_id, region_name)
        present = {
            "cluster": original_resource.cluster_name,
            "launchType": "EC2",
            "schedulingStrategy": services.DAEMON,
            "serviceName": original_resource.name,
        }
        for name in _REPLACES_SERVICE:
            if given.get(name, present[name]).rpartition("/")[2] != present[name]:
                raise ValueError(f"the local cloud cannot change {name} of a service; deploy into a new local cloud")
        changes = {name: value for name, value in given.items() if name not in (*_REPLACES_SERVICE, "tags")}
        # A template without constraints removes them.
        changes.setdefault("placementConstraints", [])
        changes |= {"cluster": original_resource.cluster_name, "service": original_resource.name}
        return services.update(backend, changes)

    def delete(self: Any, account_id: str, region_name: str) -> None:
        if self.status == services.ACTIVE:
            services.delete(_backend(account_id, region_name), self.cluster_name, self.name)

    def attribute(self: Any, attribute_name: str) -> str:
        return str({"Name": self.name, "ServiceArn": self.arn}[attribute_name])

    Service.create_from_cloudformation_json = staticmethod(create)
    Service.update_from_cloudformation_json = staticmethod(update)
    Service.delete = delete
    Service.get_cfn_attribute = attribute
    Service.has_cfn_attr = staticmethod(lambda attr: attr in ("Name", "ServiceArn"))


@correction(
    moto="updates only resources whose own text in the template has changed",
    aws="also updates those that refer to a replaced resource; here to a task definition, whose revision is new",
)
def references_follow_new_revisions() -> None:
    from moto.cloudformation import parsing

    build_resource_diff = parsing.ResourceMap.build_resource_diff

    def build(self: Any, other_template: dict[str, Any], parameters: Any = None) -> Any:
        diff = build_resource_diff(self, other_template, parameters)
        resources = other_template["Resources"]
        replaced = [name for name in diff["Modify"] if resources[name]["Type"] == TASK_DEFINITION]
        if replaced:
            referring = [
                name
                for name, resource in resources.items()
                if name not in (*diff["Add"], *diff["Modify"]) and _refers(resource, replaced)
            ]
            # In this order each finds the revision that it refers to.
            diff["Modify"] = [*replaced, *(name for name in diff["Modify"] if name not in replaced), *referring]
        return diff

    parsing.ResourceMap.build_resource_diff = build


def _backend(account: str, region: str) -> Any:
    from moto.ecs.models import ecs_backends

    return ecs_backends[account][region]


def _arguments(resource: Mapping[str, Any], action: str) -> dict[str, Any]:
    """
    Convert a resource's properties to the members of the API's request.

    Raises:
        ValueError: If the API has no such member.
    """
    operation = java_names.operation_model("ecs", action)
    properties = {_RENAMED.get(name, name): value for name, value in resource.get("Properties", {}).items()}
    converted: dict[str, Any] = _converted(properties, operation.input_shape if operation else None, "")
    return converted


def _converted(value: Any, shape: Shape | None, where: str) -> Any:
    match shape:
        case StructureShape() if isinstance(value, Mapping):
            members = {name.lower(): name for name in shape.members}
            unknown = [name for name in value if name.lower() not in members]
            if unknown:
                raise ValueError(f"Encountered unsupported property {where}{', '.join(unknown)}")
            named = {members[name.lower()]: (name, item) for name, item in value.items()}
            return {
                member: _converted(item, shape.members[member], f"{where}{name}.")
                for member, (name, item) in named.items()
            }
        case ListShape() if isinstance(value, list):
            return [_converted(item, shape.member, where) for item in value]
        case MapShape():
            return value
    # Templates may have numbers and truth values as text, and numbers in place of text.
    kind = shape.type_name if shape is not None else ""
    if kind in ("integer", "long") and isinstance(value, str):
        return int(value)
    if kind == "boolean" and isinstance(value, str):
        return value.lower() == "true"
    return str(value) if kind == "string" and not isinstance(value, str) else value


def _refuse_capacity_providers(given: Mapping[str, Any]) -> None:
    from moto.ecs.exceptions import EcsClientException

    if given.get("capacityProviders") or given.get("defaultCapacityProviderStrategy"):
        raise EcsClientException(
            "the local cloud has no capacity providers; on AWS they take no Auto Scaling group with instance weights, "
            "and a daemon service takes no capacity provider"
        )


def _refuse_to_delete(cluster: Any) -> None:
    from moto.ecs.exceptions import ECSException

    for kind, counted in (
        ("ContainerInstances", cluster.registered_container_instances_count),
        ("Services", cluster.active_services_count),
        ("Tasks", cluster.running_tasks_count + cluster.pending_tasks_count),
    ):
        if counted:
            raise ECSException(
                f"ClusterContains{kind}Exception", f"The Cluster cannot be deleted while {kind} are active."
            )


def _refers(resource: Mapping[str, Any], names: list[str]) -> bool:
    text = json.dumps(resource, separators=(",", ":"))
    return any(
        word in text
        for name in names
        for word in (f'{{"Ref":"{name}"}}', f'{{"Fn::GetAtt":["{name}",', f"${{{name}}}", f"${{{name}.")
    )


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


CORRECTIONS = (
    clusters_of_templates_are_complete,
    task_definitions_of_templates_are_complete,
    services_of_templates_are_complete,
    references_follow_new_revisions,
)
