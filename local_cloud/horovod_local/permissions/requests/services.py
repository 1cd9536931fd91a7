"""Rules of all services; those of larger services are in modules of this folder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from horovod_local.permissions.requests import autoscaling, dynamodb, ecs, s3, sagemaker, states
from horovod_local.permissions.requests.service_request import (
    PermissionRule,
    RequiredPermission,
    ServiceRequest,
    UnknownOperationError,
    without_resource,
)


def required_permissions(request: ServiceRequest) -> list[RequiredPermission]:
    """
    List the permissions that *request* needs.

    Raises:
        UnknownOperationError: If there is no rule for its operation.
    """
    rule = _RULES.get(request.call.service, {}).get(request.call.operation)
    if rule is None:
        operation = f"{request.call.service}.{request.call.operation or '?'}"
        raise UnknownOperationError(
            f"the local cloud does not know which permissions {operation} needs: add a rule to "
            "horovod_local.permissions.requests"
        )
    return list(rule(request))


def _nothing(_request: ServiceRequest) -> Iterable[RequiredPermission]:
    return ()


def _log_stream(action: str) -> PermissionRule:
    # Requests of a log group itself have an empty stream in their ARN, as AWS's messages of denials show.
    return lambda request: (
        RequiredPermission(
            action=f"logs:{action}",
            resource=request.arn(
                "logs",
                f"log-group:{request.parameters.get('logGroupName') or _name_of(request.parameters)}"
                f":log-stream:{request.parameters.get('logStreamName') or ''}",
            ),
        ),
    )


def _name_of(given: Any) -> str:
    return str(given.get("logGroupIdentifier") or "").rpartition(":log-group:")[2].removesuffix(":*")


def _stack(action: str) -> PermissionRule:
    def read(request: ServiceRequest) -> Iterable[RequiredPermission]:
        name = request.parameters.get("StackName") or "*"
        stacks = list(request.backend("cloudformation").stacks.values())
        ids = [stack.stack_id for stack in stacks if name in (stack.name, stack.stack_id)]
        return (
            RequiredPermission(
                action=f"cloudformation:{action}", resource=ids[0] if ids else _stack_arn(request, name)
            ),
        )

    return read


def _stack_arn(request: ServiceRequest, name: str) -> str:
    return name if name.startswith("arn:") else request.arn("cloudformation", f"stack/{name}/*")


def _put_metrics(request: ServiceRequest) -> Iterable[RequiredPermission]:
    namespace = str(request.parameters["Namespace"])
    return (RequiredPermission(action="cloudwatch:PutMetricData", context={"cloudwatch:namespace": (namespace,)}),)


def _publish(request: ServiceRequest) -> Iterable[RequiredPermission]:
    """Source of the key's permissions: SNS Developer Guide, "Managing Amazon SNS encryption keys and costs"."""
    arn = request.parameters.get("TopicArn") or request.parameters["TargetArn"]
    yield RequiredPermission(action="sns:Publish", resource=arn)
    topic = request.backend("sns").topics.get(arn)
    key = topic.kms_master_key_id if topic is not None else None
    if key:
        via = f"sns.{request.call.region}.amazonaws.com"
        arn = key if key.startswith("arn:") else request.arn("kms", f"key/{key}")
        for action in ("kms:GenerateDataKey", "kms:Decrypt"):
            yield RequiredPermission(action=action, resource=arn, context={"kms:viaservice": (via,)}, via="sns")


def _parameter(action: str) -> PermissionRule:
    def read(request: ServiceRequest) -> Iterable[RequiredPermission]:
        names = request.parameters.get("Names") or [request.parameters["Name"]]
        return [
            RequiredPermission(action=f"ssm:{action}", resource=request.arn("ssm", f"parameter/{n.lstrip('/')}"))
            for n in names
        ]

    return read


def _quota(request: ServiceRequest) -> Iterable[RequiredPermission]:
    """GetServiceQuota has a quota as resource; GetAWSDefaultServiceQuota has none."""
    given = request.parameters
    resource = request.arn("servicequotas", f"{given['ServiceCode']}/{given['QuotaCode']}")
    return (RequiredPermission(action="servicequotas:GetServiceQuota", resource=resource),)


def _assume(request: ServiceRequest) -> Iterable[RequiredPermission]:
    given = request.parameters
    context = {"sts:rolesessionname": (str(given["RoleSessionName"]),)}
    if "ExternalId" in given:
        context["sts:externalid"] = (str(given["ExternalId"]),)
    return (RequiredPermission(action="sts:AssumeRole", resource=given["RoleArn"], context=context),)


_RULES: Final[dict[str, dict[str, PermissionRule]]] = {
    "autoscaling": autoscaling.RULES,
    "cloudformation": {
        "DescribeStackResources": _stack("DescribeStackResources"),
        "DescribeStacks": _stack("DescribeStacks"),
        "ListStackResources": _stack("ListStackResources"),
    },
    "cloudwatch": {
        "GetMetricData": without_resource("cloudwatch:GetMetricData"),
        "GetMetricStatistics": without_resource("cloudwatch:GetMetricStatistics"),
        "ListMetrics": without_resource("cloudwatch:ListMetrics"),
        "PutMetricData": _put_metrics,
    },
    "dynamodb": dynamodb.RULES,
    "ec2": {
        name: without_resource(f"ec2:{name}")
        for name in (
            "DescribeInstances",
            "DescribeInstanceTypeOfferings",
            "DescribeInstanceTypes",
            "DescribeSpotPriceHistory",
            "DescribeSubnets",
        )
    },
    "ecs": ecs.RULES,
    "logs": {
        "DescribeLogGroups": _log_stream("DescribeLogGroups"),
        **{
            name: _log_stream(name)
            for name in ("CreateLogStream", "DescribeLogStreams", "FilterLogEvents", "GetLogEvents", "PutLogEvents")
        },
    },
    "pricing": {"GetProducts": without_resource("pricing:GetProducts")},
    "s3": s3.RULES,
    "sagemaker": sagemaker.RULES,
    "servicequotas": {
        "GetAWSDefaultServiceQuota": without_resource("servicequotas:GetAWSDefaultServiceQuota"),
        "GetServiceQuota": _quota,
        "ListServiceQuotas": without_resource("servicequotas:ListServiceQuotas"),
    },
    "sns": {"Publish": _publish},
    "ssm": {name: _parameter(name) for name in ("GetParameter", "GetParameters", "PutParameter")},
    "stepfunctions": states.RULES,
    # API Reference, GetCallerIdentity: "No permissions are required to perform this operation."
    "sts": {"AssumeRole": _assume, "GetCallerIdentity": _nothing},
}
