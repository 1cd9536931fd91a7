"""CloudFormation resources that moto creates or deletes incompletely."""

from __future__ import annotations

import copy
import json
from typing import Any

from horovod_local.corrections.registry import correction
from horovod_local.corrections.templates import AcceptedResource


@correction(
    moto="creates a template's state machine so that it is not executed, and ignores DefinitionS3Location, "
    "DefinitionSubstitutions, type and logging",
    aws="creates it as declared",
)
def state_machines_are_executable() -> None:
    from moto.stepfunctions import models
    from moto.stepfunctions.parser.models import stepfunctions_parser_backends

    def create(
        resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
        **_kwargs: Any,
    ) -> Any:
        properties = cloudformation_json["Properties"]
        return stepfunctions_parser_backends[account_id][region_name].create_state_machine(
            name=properties.get("StateMachineName", resource_name),
            definition=_definition(properties, account_id),
            roleArn=properties.get("RoleArn", ""),
            tags=models.cfn_to_api_tags(properties.get("Tags", [])),
            loggingConfiguration=_camel(properties.get("LoggingConfiguration")),
            tracingConfiguration=_camel(properties.get("TracingConfiguration")),
            sm_type=properties.get("StateMachineType"),
        )

    update_machine = models.StateMachine.update_from_cloudformation_json

    def update(*, original_resource: Any, cloudformation_json: dict[str, Any], **identity: Any) -> Any:
        changed = copy.deepcopy(cloudformation_json)
        properties = changed["Properties"]
        properties["DefinitionString"] = _definition(properties, identity["account_id"])
        properties.setdefault("StateMachineName", original_resource.name)
        return update_machine(original_resource=original_resource, cloudformation_json=changed, **identity)

    get_cfn_attribute = models.StateMachine.get_cfn_attribute

    def attribute(self: Any, attribute_name: str) -> Any:
        return self.arn if attribute_name == "Arn" else get_cfn_attribute(self, attribute_name)

    has_cfn_attr = models.StateMachine.has_cfn_attr

    def has_attribute(attr: str) -> bool:
        return attr == "Arn" or bool(has_cfn_attr(attr))

    models.stepfunctions_backends = stepfunctions_parser_backends
    models.StateMachine.create_from_cloudformation_json = staticmethod(create)
    models.StateMachine.update_from_cloudformation_json = staticmethod(update)
    models.StateMachine.get_cfn_attribute = attribute
    models.StateMachine.has_cfn_attr = staticmethod(has_attribute)


def _definition(properties: dict[str, Any], account_id: str) -> str:
    """Return the definition from any of the properties that may hold it, with its `${…}` substituted."""
    from moto.s3.models import s3_backends

    location = properties.get("DefinitionS3Location")
    if location:
        stored = s3_backends[account_id]["aws"].get_object(location["Bucket"], location["Key"])
        text = stored.value.decode()
    elif "Definition" in properties:
        text = json.dumps(properties["Definition"])
    else:
        text = properties.get("DefinitionString", "")
    for name, value in (properties.get("DefinitionSubstitutions") or {}).items():
        text = text.replace(f"${{{name}}}", str(value))
    return str(text)


def _camel(value: Any) -> Any:
    """Convert the keys of a CloudFormation property to the camelCase of the Step Functions API."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: _camel(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_camel(item) for item in value]
    return value


@correction(moto="ignores the versioning of a template's bucket", aws="enables it")
def buckets_are_versioned() -> None:
    from moto.s3.models import FakeBucket, s3_backends

    create_bucket = FakeBucket.create_from_cloudformation_json

    def create(
        resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
        **kwargs: Any,
    ) -> Any:
        bucket = create_bucket(resource_name, cloudformation_json, account_id, region_name, **kwargs)
        status = (cloudformation_json["Properties"].get("VersioningConfiguration") or {}).get("Status")
        if status:
            s3_backends[account_id]["aws"].put_bucket_versioning(bucket.name, status)
        return bucket

    FakeBucket.create_from_cloudformation_json = staticmethod(create)


@correction(
    moto="cannot delete a route table with its stack",
    aws="deletes its associations, then the route table",
)
def route_tables_are_deleted() -> None:
    from moto.ec2.models.route_tables import RouteTable

    def delete(self: Any, _account_id: str, _region_name: str) -> None:
        for association in list(self._associations):
            self.ec2_backend.disassociate_route_table(association)
        self.ec2_backend.delete_route_table(self.id)

    RouteTable.delete = delete


@correction(
    moto="cannot create an AWS::SNS::Subscription",
    aws="creates it, and deletes it with its stack",
)
def subscriptions_are_created() -> None:
    from moto.cloudformation import parsing
    from moto.sns.models import sns_backends

    class Subscription(AcceptedResource):
        @classmethod
        def create_from_cloudformation_json(
            cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **kwargs: Any
        ) -> Subscription:
            del resource_name, kwargs
            properties = cloudformation_json["Properties"]
            made = sns_backends[account_id][region_name].subscribe(
                properties["TopicArn"], properties.get("Endpoint", ""), properties["Protocol"]
            )
            return cls(made.arn, made.arn)

        def delete(self, account_id: str, region_name: str) -> None:
            sns_backends[account_id][region_name].unsubscribe(self.arn)

    resource_class_from_type = parsing.resource_class_from_type

    def with_subscriptions(resource_type: str) -> Any:
        return Subscription if resource_type == "AWS::SNS::Subscription" else resource_class_from_type(resource_type)

    parsing.resource_class_from_type = with_subscriptions


CORRECTIONS = (
    state_machines_are_executable,
    buckets_are_versioned,
    route_tables_are_deleted,
    subscriptions_are_created,
)
