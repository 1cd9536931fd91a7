"""CloudFormation: unsupported types and attributes, changes, rollback, deletion and parameters of stacks."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from horovod_local.corrections.registry import correction
from horovod_local.shared.resource_types import ACCEPTED_WITHOUT_EFFECT

PUBLIC_PARAMETERS: Final = "/aws/service/"
"""Path of the public SSM parameters of AWS, such as the ids of machine images."""
STAND_IN_IMAGE: Final = "ami-00000000000000000"
"""Stands in for images that moto does not list; what an instance boots from is not emulated."""

CUSTOM_RESOURCES: Final = ("Custom::", "AWS::CloudFormation::CustomResource")


class AcceptedResource:
    """
    A resource that exists in its stack only; see `resource_types`.

    It has the interface of moto's CloudFormation models, but not their base class, by which moto would register it.
    """

    def __init__(self, name: str, arn: str) -> None:
        self.name = name
        self.arn = arn

    @property
    def physical_resource_id(self) -> str:
        return self.name

    @classmethod
    def has_cfn_attr(cls, _attribute: str) -> bool:
        return True

    def get_cfn_attribute(self, attribute_name: str) -> str:
        return self.arn if attribute_name == "Arn" else self.name

    def is_created(self) -> bool:
        return True

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **kwargs: Any
    ) -> AcceptedResource:
        del cloudformation_json
        _, service, kind = kwargs["ResourceType"].split("::")
        return cls(
            resource_name, f"arn:aws:{service.lower()}:{region_name}:{account_id}:{kind.lower()}:{resource_name}"
        )

    @classmethod
    def update_from_cloudformation_json(cls, original_resource: AcceptedResource, **_change: Any) -> AcceptedResource:
        return original_resource

    def delete(self, _account_id: str, _region_name: str) -> None:
        """Do nothing, because nothing was created."""


@correction(
    moto="skips unknown types and either skips or never finishes custom resources, and reports CREATE_COMPLETE",
    aws="refuses a template with a type that it cannot create; so do we, except for types without effect on a run",
)
def unknown_types_are_errors() -> None:
    from moto.cloudformation import parsing

    def resource_class_from_type(resource_type: str) -> Any:
        if resource_type in ACCEPTED_WITHOUT_EFFECT:
            return AcceptedResource
        return parsing.get_model_map().get(resource_type)

    parsing.resource_class_from_type = resource_class_from_type

    load, build_resource_diff = parsing.ResourceMap.load, parsing.ResourceMap.build_resource_diff

    def check_and_load(self: Any) -> None:
        _refuse_unknown_types(self._template)
        load(self)

    def check_and_compare(self: Any, other_template: dict[str, Any], parameters: Any = None) -> Any:
        _refuse_unknown_types(other_template)
        return build_resource_diff(self, other_template, parameters)

    parsing.ResourceMap.load = check_and_load
    parsing.ResourceMap.build_resource_diff = check_and_compare


def _refuse_unknown_types(template: dict[str, Any]) -> None:
    from moto.cloudformation import parsing
    from moto.cloudformation.exceptions import ValidationError

    unknown = {
        name: resource["Type"]
        for name, resource in template.get("Resources", {}).items()
        if parsing.resource_class_from_type(resource["Type"]) is None
    }
    if unknown:
        types = ", ".join(sorted(set(unknown.values())))
        custom = any(kind.startswith(CUSTOM_RESOURCES) for kind in unknown.values())
        hint = "; custom resources need AWS Lambda, which the local cloud does not run" if custom else ""
        raise ValidationError(
            message=f"Template format error: Unrecognized resource types: [{types}]: the local cloud cannot create "
            f"{', '.join(unknown)}{hint}"
        )


@correction(
    moto="leaves Fn::GetAtt of an unknown attribute unresolved",
    aws="refuses the template",
)
def unknown_attributes_are_errors() -> None:
    from moto.cloudformation import parsing
    from moto.cloudformation.exceptions import ValidationError

    clean_json = parsing.clean_json

    def clean(value: Any, resources_map: Any) -> Any:
        cleaned = clean_json(value, resources_map)
        if isinstance(value, dict) and "Fn::GetAtt" in value and isinstance(cleaned, dict | None):
            resource, attribute = value["Fn::GetAtt"]
            raise ValidationError(
                message=f"Template error: resource {resource} does not support attribute type {attribute} in Fn::GetAtt"
            )
        return cleaned

    parsing.clean_json = clean


@correction(
    moto="returns the zones of us-east-1 for Fn::GetAZs without a Region",
    aws="returns those of the stack's Region",
)
def zones_are_those_of_the_region() -> None:
    from moto.cloudformation import parsing
    from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend

    clean_json = parsing.clean_json

    def clean(value: Any, resources_map: Any) -> Any:
        if isinstance(value, dict) and "Fn::GetAZs" in value:
            region = clean(value["Fn::GetAZs"], resources_map) or resources_map["AWS::Region"]
            return [zone.name for zone in RegionsAndZonesBackend.zones[region]]
        return clean_json(value, resources_map)

    parsing.clean_json = clean


@correction(
    moto="drops a resource from its stack when it cannot update it",
    aws="updates it in place or by replacement; here the update is refused, naming the resource",
)
def changes_are_made_or_refused() -> None:
    from moto.cloudformation import parsing

    update = parsing.parse_and_update_resource

    def change(*args: Any, **kwargs: Any) -> Any:
        resource = update(*args, **kwargs)
        if resource is None:
            raise ValueError("the local cloud cannot change a resource of this type; deploy into a new local cloud")
        return resource

    parsing.parse_and_update_resource = change


@correction(
    moto="fails CreateStack when a resource fails, without naming the resource, and keeps what it has created",
    aws="rolls the stack back, and names resource and reason in the stack's status reason and events",
)
def failed_stacks_roll_back() -> None:
    from moto.cloudformation import parsing
    from moto.cloudformation.exceptions import ValidationError
    from moto.cloudformation.models import CloudFormationBackend

    class ResourceFailedError(ValidationError):  # type: ignore[misc]  # moto is untyped
        def __init__(self, logical_id: str, resource_type: str, reason: str) -> None:
            super().__init__(message=f"{logical_id} ({resource_type}): {reason}")
            self.logical_id, self.resource_type, self.reason = logical_id, resource_type, reason

    def naming_the_resource(act: Any) -> Any:
        def named(logical_id: str, resource_json: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            try:
                return act(logical_id, resource_json, *args, **kwargs)
            except ResourceFailedError:
                # A resource to which this one refers has failed; that one must be named.
                raise
            except Exception as error:
                reason = getattr(error, "message", None) or str(error) or type(error).__name__
                raise ResourceFailedError(logical_id, resource_json["Type"], reason) from error

        return named

    parsing.parse_and_create_resource = naming_the_resource(parsing.parse_and_create_resource)
    parsing.parse_and_update_resource = naming_the_resource(parsing.parse_and_update_resource)

    create_stack = CloudFormationBackend.create_stack

    def create(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return create_stack(self, name, *args, **kwargs)
        except ResourceFailedError as error:
            stack = next((stack for stack in self.stacks.values() if stack.name == name), None)
            if stack is None:
                raise
            _roll_back(self, stack, error)
            return stack

    CloudFormationBackend.create_stack = create


def _roll_back(backend: Any, stack: Any, error: Any) -> None:
    from moto.cloudformation.models import Event

    stack.events.append(
        Event(
            stack_id=stack.stack_id,
            stack_name=stack.name,
            logical_resource_id=error.logical_id,
            physical_resource_id="",
            resource_type=error.resource_type,
            resource_status="CREATE_FAILED",
            resource_status_reason=error.reason,
            resource_properties=None,
        )
    )
    # An error of the rollback itself must not hide the reason of the failure.
    with contextlib.suppress(Exception):
        stack.resource_map.delete()
    _empty(stack)
    for name in [name for name, export in backend.exports.items() if export.exporting_stack_id == stack.stack_id]:
        del backend.exports[name]
    stack.status, stack.stack_status_reason = "ROLLBACK_COMPLETE", str(error.message)
    stack._add_stack_event("ROLLBACK_COMPLETE", resource_status_reason=str(error.message))


def _empty(stack: Any) -> None:
    """Remove all resources from *stack*; moto would create them again when the stack is described."""
    stack.template_dict = {}
    stack.resource_map = stack._create_resource_map()
    stack.output_map = stack._create_output_map()


@correction(
    moto="creates the resources of a deleted stack again when the stack is described",
    aws="describes it without outputs",
)
def deleted_stacks_stay_deleted() -> None:
    from moto.cloudformation.models import Stack

    delete_stack = Stack.delete

    def delete(self: Any) -> None:
        delete_stack(self)
        _empty(self)

    Stack.delete = delete


@correction(
    moto="deletes a stack's resources in any order, such as a bucket before its policy, which then fails",
    aws="deletes the dependents of a resource first",
)
def stacks_are_deleted_in_order() -> None:
    from moto.cloudformation.parsing import ResourceMap

    delete_in_any_order = ResourceMap.delete

    def delete(self: Any) -> None:
        # moto has created the resources in the order of their dependencies, and keeps that order.
        for name in reversed(list(self._parsed_resources)):
            declared = self._resource_json_map.get(name, {"DeletionPolicy": "Retain"})
            if declared.get("DeletionPolicy") == "Retain" or self._parsed_resources[name] is None:
                continue
            # A resource that cannot be deleted yet is left to moto's own passes, which report the error.
            with contextlib.suppress(Exception):
                self._delete_resource(self._parsed_resources[name], declared)
                del self._parsed_resources[name]
        delete_in_any_order(self)

    ResourceMap.delete = delete


@correction(
    moto="fails the second deployment of a stack whose parameters have defaults",
    aws="keeps the previous value, or the default",
)
def updates_keep_default_parameters() -> None:
    from moto.cloudformation.models import CloudFormationBackend

    def resolve(_self: Any, instance: Any, incoming_params: list[dict[str, Any]]) -> dict[str, str]:
        given = {item["ParameterKey"]: item["ParameterValue"] for item in incoming_params if "ParameterValue" in item}
        kept = {
            item["ParameterKey"]: instance.parameters[item["ParameterKey"]]
            for item in incoming_params
            if item.get("UsePreviousValue") and item["ParameterKey"] in instance.parameters
        }
        return {**given, **kept}

    CloudFormationBackend._resolve_update_parameters = resolve


@correction(
    moto="answers 500 for an unknown SSM parameter, and for one that uses its previous value in a change set",
    aws="resolves the public parameters under /aws/service, refuses unknown names, and keeps a previous value",
)
def ssm_parameters_are_resolved() -> None:
    from moto.cloudformation.exceptions import ValidationError
    from moto.cloudformation.parsing import ResourceMap

    parse_ssm_parameter = ResourceMap.parse_ssm_parameter

    def parse(self: Any, value: str, value_type: str) -> Any:
        try:
            return parse_ssm_parameter(self, value, value_type)
        except AttributeError:
            if value.startswith(PUBLIC_PARAMETERS):
                return STAND_IN_IMAGE
            if not value.startswith("/"):
                # With UsePreviousValue a change set passes the value that was resolved before.
                return value
            raise ValidationError(
                message=f"Unable to fetch parameters [{value}] from parameter store for this account."
            ) from None

    ResourceMap.parse_ssm_parameter = parse


CORRECTIONS = (
    unknown_types_are_errors,
    unknown_attributes_are_errors,
    zones_are_those_of_the_region,
    changes_are_made_or_refused,
    failed_stacks_roll_back,
    deleted_stacks_stay_deleted,
    stacks_are_deleted_in_order,
    updates_keep_default_parameters,
    ssm_parameters_are_resolved,
)
