"""Permissions: resource policies of templates, unsupported policies, and the roles that services assume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from horovod_local.corrections.registry import correction
from horovod_local.corrections.templates import AcceptedResource
from horovod_local.permissions import deployed_policies
from horovod_local.permissions.conditions import UnsupportedPolicyError
from horovod_local.permissions.decision import ApplicablePolicies, decide
from horovod_local.permissions.policy import Request, read_statements
from horovod_local.permissions.principals import PRINCIPALS, service
from horovod_local.permissions.record import RECORD

STATES: Final = "states.amazonaws.com"
EVENTS: Final = "events.amazonaws.com"
LOG_DELIVERY: Final = (
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
)
"""Step Functions Developer Guide, "Using CloudWatch Logs to log execution history in Step Functions"."""
NESTED: Final = ":states:startExecution.sync"
WAITING: Final = ("events:PutTargets", "events:PutRule", "events:DescribeRule")
WAITING_RULE: Final = "StepFunctionsGetEventsForStepFunctionsExecutionRule"
"""
A role needs these permissions on this rule to wait for executions (Step Functions Developer Guide, "IAM policies for
calling Step Functions workflow executions"); AWS refuses to create a state machine without them.
"""


@correction(
    moto="does not create the bucket policies and topic policies of a template",
    aws="attaches them to the bucket or the topics, and removes them with the stack",
)
def resource_policies_are_made() -> None:
    from moto.cloudformation import parsing
    from moto.s3.models import s3_backends
    from moto.sns.models import sns_backends
    from moto.utilities.utils import get_partition

    class BucketPolicy(AcceptedResource):
        @classmethod
        def create_from_cloudformation_json(
            cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_kwargs: Any
        ) -> BucketPolicy:
            properties = cloudformation_json["Properties"]
            backend = s3_backends[account_id][get_partition(region_name)]
            backend.put_bucket_policy(properties["Bucket"], json.dumps(properties["PolicyDocument"]).encode())
            return cls(properties["Bucket"], resource_name)

        @classmethod
        def update_from_cloudformation_json(cls, original_resource: Any, **change: Any) -> Any:
            return cls.create_from_cloudformation_json(original_resource.arn, **_known(change))

        def delete(self, account_id: str, region_name: str) -> None:
            s3_backends[account_id][get_partition(region_name)].delete_bucket_policy(self.name)

    class TopicPolicy(AcceptedResource):
        @classmethod
        def create_from_cloudformation_json(
            cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_kwargs: Any
        ) -> TopicPolicy:
            properties = cloudformation_json["Properties"]
            for arn in properties["Topics"]:
                sns_backends[account_id][region_name].topics[arn].policy = json.dumps(properties["PolicyDocument"])
            return cls(resource_name, resource_name)

        @classmethod
        def update_from_cloudformation_json(cls, original_resource: Any, **change: Any) -> Any:
            return cls.create_from_cloudformation_json(original_resource.name, **_known(change))

    made = {"AWS::S3::BucketPolicy": BucketPolicy, "AWS::SNS::TopicPolicy": TopicPolicy}
    resource_class_from_type = parsing.resource_class_from_type

    def with_policies(resource_type: str) -> Any:
        return made.get(resource_type) or resource_class_from_type(resource_type)

    parsing.resource_class_from_type = with_policies


def _known(change: Mapping[str, Any]) -> dict[str, Any]:
    return {name: change[name] for name in ("cloudformation_json", "account_id", "region_name")}


@correction(
    moto='returns the ARN of a log group for Fn::GetAtt without ":*"',
    aws='ends it with ":*", so that a policy on it covers the log streams, too',
)
def log_groups_stand_for_their_streams() -> None:
    from moto.logs.models import LogGroup

    get_cfn_attribute = LogGroup.get_cfn_attribute

    def attribute(self: Any, attribute_name: str) -> Any:
        # CloudFormation Template Reference, AWS::Logs::LogGroup, return values.
        return f"{self.arn}:*" if attribute_name == "Arn" else get_cfn_attribute(self, attribute_name)

    LogGroup.get_cfn_attribute = attribute


@correction(
    moto="evaluates a bucket policy for some requests, without its conditions and principals",
    aws="evaluates all of it for all requests; here `horovod_local.permissions` does",
)
def bucket_policies_are_evaluated_once() -> None:
    from moto.iam.access_control import PermissionResult
    from moto.s3.models import FakeBucket

    FakeBucket.get_permission = lambda *_asked: PermissionResult.NEUTRAL


@correction(
    moto="accepts policies with any element, operator or key",
    aws="evaluates all of them; here a template with one that is not supported is refused",
)
def policies_are_understood() -> None:
    from moto.cloudformation import parsing
    from moto.cloudformation.exceptions import ValidationError

    load = parsing.ResourceMap.load
    build_resource_diff = parsing.ResourceMap.build_resource_diff

    def check(template: Mapping[str, Any]) -> None:
        for name, resource in template.get("Resources", {}).items():
            # The parameters decide which branch of `Fn::If` holds, so both must be supported.
            for branch in (1, 2):
                for document in _documents(_chosen(resource.get("Properties", {}), branch)):
                    try:
                        read_statements(document, name=name)
                    except UnsupportedPolicyError as error:
                        raise ValidationError(
                            message=f"{error}: the local cloud cannot evaluate this policy"
                        ) from error

    def check_and_load(self: Any) -> None:
        check(self._template)
        load(self)

    def check_and_compare(self: Any, other_template: dict[str, Any], parameters: Any = None) -> Any:
        check(other_template)
        return build_resource_diff(self, other_template, parameters)

    parsing.ResourceMap.load = check_and_load
    parsing.ResourceMap.build_resource_diff = check_and_compare


def _documents(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the policy documents within a resource's properties."""
    if isinstance(value, dict):
        if "Statement" in value:
            yield value
        for item in value.values():
            yield from _documents(item)
    elif isinstance(value, list):
        for item in value:
            yield from _documents(item)


@correction(
    moto="creates a state machine whose role does not exist, does not trust Step Functions, may not write its log, or "
    "may not make the EventBridge rule that it needs to wait for executions",
    aws="refuses it with AccessDeniedException",
)
def roles_of_state_machines_are_checked() -> None:
    from moto.stepfunctions.exceptions import AWSError
    from moto.stepfunctions.parser.models import StepFunctionsParserBackend

    class AccessDeniedException(AWSError):  # type: ignore[misc]  # noqa: N818 - moto is untyped; AWS's own name
        TYPE = "AccessDeniedException"
        STATUS = 400

    create_state_machine = StepFunctionsParserBackend.create_state_machine

    def create(self: Any, name: str, definition: str, roleArn: str, **kwargs: Any) -> Any:  # noqa: N803 - moto's name
        role = roleArn
        arn = f"arn:{self.partition}:states:{self.region_name}:{self.account_id}:stateMachine:{name}"
        if not may_assume(STATES, role, source=arn, account=self.account_id):
            raise AccessDeniedException(
                "Neither the global service principal states.amazonaws.com, nor the regional one is authorized to "
                "assume the provided role."
            )
        level = (kwargs.get("loggingConfiguration") or {}).get("level", "OFF")
        may_log = (role_may(each, role=role, region=self.region_name, session="states") for each in LOG_DELIVERY)
        if level != "OFF" and not all(may_log):
            raise AccessDeniedException("The state machine IAM Role is not authorized to access the Log Destination")
        rule = f"arn:{self.partition}:events:{self.region_name}:{self.account_id}:rule/{WAITING_RULE}"
        may_wait = (role_may(each, role=role, region=self.region_name, session="states", on=rule) for each in WAITING)
        if NESTED in definition and not all(may_wait):
            raise AccessDeniedException(f"'{role}' is not authorized to create managed-rule.")
        return create_state_machine(self, name=name, definition=definition, roleArn=role, **kwargs)

    StepFunctionsParserBackend.create_state_machine = create


def may_assume(principal: str, role: str, *, source: str, account: str) -> bool:
    """
    Return whether *role* trusts a service.

    Args:
        principal: Service principal, such as `events.amazonaws.com`.
        role: ARN of the role.
        source: ARN of the resource on whose behalf the service acts.
        account: Account of that resource.
    """
    return _allows(
        Request(
            principal=service(principal, account=account),
            action="sts:AssumeRole",
            resource=role,
            context={"aws:sourcearn": (source,), "aws:sourceaccount": (account,)},
        ),
        operation="sts.AssumeRole",
    )


def role_may(action: str, *, role: str, region: str, session: str, on: str = "*") -> bool:
    """
    Return whether a service that acts as *role* is allowed an action.

    Args:
        action: IAM action, such as `logs:CreateLogDelivery`.
        role: ARN of the role.
        region: Region in which the service acts.
        session: Name of the service's session.
        on: ARN of the resource. Default: `*`.
    """
    key = PRINCIPALS.assume(role, region=region, session=session)
    principal = PRINCIPALS.identify(key, account=role.split(":")[4])
    return _allows(Request(principal=principal, action=action, resource=on, context={}), operation=action)


def _allows(request: Request, *, operation: str) -> bool:
    own = None if request.resource == "*" else deployed_policies.resource_policy(request.resource)
    identity = deployed_policies.identity_policies(request.principal)
    decision = decide(request, ApplicablePolicies(identity=identity, resource=own))
    RECORD.note(request.principal, operation, decision)
    return decision.is_allowed


def may_deliver(rule: str, target: Mapping[str, Any], *, account: str, region: str) -> str:
    """
    Return why EventBridge may not deliver to *target* of the rule with the ARN *rule*; empty if it may.

    Source: EventBridge User Guide, "Using identity-based policies for Amazon EventBridge" (the target's role starts
    state machines) and "Using resource-based policies for Amazon EventBridge" (topic policies admit the service).
    """
    arn = str(target["Arn"])
    context = {"aws:sourcearn": (rule,), "aws:sourceaccount": (account,), "aws:securetransport": ("true",)}
    if arn.split(":")[2] == "sns":
        request = Request(
            principal=service(EVENTS, account=account), action="sns:Publish", resource=arn, context=context
        )
        return "" if _allows(request, operation="events.Deliver") else f"the topic {arn} does not let {EVENTS} publish"
    role = target.get("RoleArn")
    if not role or not may_assume(EVENTS, role, source=rule, account=account):
        return f"the role {role} does not trust {EVENTS}"
    principal = PRINCIPALS.identify(PRINCIPALS.assume(role, region=region, session="events"), account=account)
    request = Request(principal=principal, action="states:StartExecution", resource=arn, context=context)
    return "" if _allows(request, operation="events.Deliver") else f"the role {role} may not start {arn}"


def _chosen(value: Any, branch: int) -> Any:
    """Resolve each `Fn::If` to one *branch* (1: the condition is true, 2: it is false), dropping `AWS::NoValue`."""
    if isinstance(value, list):
        return [_chosen(item, branch) for item in value if not _is_nothing(item, branch)]
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"Fn::If"}:
        return _chosen(value["Fn::If"][branch], branch)
    return {name: _chosen(item, branch) for name, item in value.items() if not _is_nothing(item, branch)}


def _is_nothing(value: Any, branch: int) -> bool:
    if isinstance(value, Mapping) and set(value) == {"Fn::If"}:
        return _is_nothing(value["Fn::If"][branch], branch)
    return isinstance(value, Mapping) and dict(value) == {"Ref": "AWS::NoValue"}


CORRECTIONS = (
    resource_policies_are_made,
    log_groups_stand_for_their_streams,
    bucket_policies_are_evaluated_once,
    policies_are_understood,
    roles_of_state_machines_are_checked,
)
