"""Every service, and the small ones in full."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from horovod_local.permissions.requests import autoscaling, dynamodb, s3, states
from horovod_local.permissions.requests.asked import Asked, Check, Reader, UnknownOperationError, on_nothing


def checks(asked: Asked) -> list[Check]:
    """
    List the permissions that a request needs; none for one that needs none.

    Raises:
        UnknownOperationError: If it is not written down here.
    """
    reader = _READERS.get(asked.call.service, {}).get(asked.call.operation)
    if reader is None:
        raise UnknownOperationError(
            f"which permissions {asked.call.service}.{asked.call.operation or '?'} needs is not known to the local "
            "cloud: write it down in horovod_local.permissions.requests"
        )
    return list(reader(asked))


def _nothing(_asked: Asked) -> Iterable[Check]:
    return ()


def _log_stream(action: str) -> Reader:
    # The ARN of a log group's own requests has an empty stream, as messages of denied ones show.
    return lambda asked: (
        Check(
            action=f"logs:{action}",
            resource=asked.arn(
                "logs",
                f"log-group:{asked.parameters.get('logGroupName') or _name_of(asked.parameters)}"
                f":log-stream:{asked.parameters.get('logStreamName') or ''}",
            ),
        ),
    )


def _name_of(given: Any) -> str:
    return str(given.get("logGroupIdentifier") or "").rpartition(":log-group:")[2].removesuffix(":*")


def _stack(action: str) -> Reader:
    def read(asked: Asked) -> Iterable[Check]:
        name = asked.parameters.get("StackName") or "*"
        stacks = list(asked.backend("cloudformation").stacks.values())
        ids = [stack.stack_id for stack in stacks if name in (stack.name, stack.stack_id)]
        return (Check(action=f"cloudformation:{action}", resource=ids[0] if ids else _stack_arn(asked, name)),)

    return read


def _stack_arn(asked: Asked, name: str) -> str:
    return name if name.startswith("arn:") else asked.arn("cloudformation", f"stack/{name}/*")


def _put_metrics(asked: Asked) -> Iterable[Check]:
    namespace = str(asked.parameters["Namespace"])
    return (Check(action="cloudwatch:PutMetricData", context={"cloudwatch:namespace": (namespace,)}),)


def _publish(asked: Asked) -> Iterable[Check]:
    """Source: SNS Developer Guide, "Managing Amazon SNS encryption keys and costs", for what the key needs."""
    arn = asked.parameters.get("TopicArn") or asked.parameters["TargetArn"]
    yield Check(action="sns:Publish", resource=arn)
    topic = asked.backend("sns").topics.get(arn)
    key = topic.kms_master_key_id if topic is not None else None
    if key:
        via = f"sns.{asked.call.region}.amazonaws.com"
        arn = key if key.startswith("arn:") else asked.arn("kms", f"key/{key}")
        for action in ("kms:GenerateDataKey", "kms:Decrypt"):
            yield Check(action=action, resource=arn, context={"kms:viaservice": (via,)}, via="sns")


def _parameter(action: str) -> Reader:
    def read(asked: Asked) -> Iterable[Check]:
        names = asked.parameters.get("Names") or [asked.parameters["Name"]]
        return [Check(action=f"ssm:{action}", resource=asked.arn("ssm", f"parameter/{n.lstrip('/')}")) for n in names]

    return read


def _quota(asked: Asked) -> Iterable[Check]:
    """GetServiceQuota is on a quota; what AWS grants to begin with is on nothing."""
    given = asked.parameters
    resource = asked.arn("servicequotas", f"{given['ServiceCode']}/{given['QuotaCode']}")
    return (Check(action="servicequotas:GetServiceQuota", resource=resource),)


def _assume(asked: Asked) -> Iterable[Check]:
    given = asked.parameters
    context = {"sts:rolesessionname": (str(given["RoleSessionName"]),)}
    if "ExternalId" in given:
        context["sts:externalid"] = (str(given["ExternalId"]),)
    return (Check(action="sts:AssumeRole", resource=given["RoleArn"], context=context),)


_READERS: Final[dict[str, dict[str, Reader]]] = {
    "autoscaling": autoscaling.READERS,
    "cloudformation": {
        "DescribeStackResources": _stack("DescribeStackResources"),
        "DescribeStacks": _stack("DescribeStacks"),
        "ListStackResources": _stack("ListStackResources"),
    },
    "cloudwatch": {
        "GetMetricData": on_nothing("cloudwatch:GetMetricData"),
        "GetMetricStatistics": on_nothing("cloudwatch:GetMetricStatistics"),
        "ListMetrics": on_nothing("cloudwatch:ListMetrics"),
        "PutMetricData": _put_metrics,
    },
    "dynamodb": dynamodb.READERS,
    "ec2": {
        name: on_nothing(f"ec2:{name}")
        for name in (
            "DescribeInstances",
            "DescribeInstanceTypeOfferings",
            "DescribeInstanceTypes",
            "DescribeSpotPriceHistory",
            "DescribeSubnets",
        )
    },
    "logs": {
        "DescribeLogGroups": _log_stream("DescribeLogGroups"),
        **{
            name: _log_stream(name)
            for name in ("CreateLogStream", "DescribeLogStreams", "FilterLogEvents", "GetLogEvents", "PutLogEvents")
        },
    },
    "pricing": {"GetProducts": on_nothing("pricing:GetProducts")},
    "s3": s3.READERS,
    "servicequotas": {
        "GetAWSDefaultServiceQuota": on_nothing("servicequotas:GetAWSDefaultServiceQuota"),
        "GetServiceQuota": _quota,
        "ListServiceQuotas": on_nothing("servicequotas:ListServiceQuotas"),
    },
    "sns": {"Publish": _publish},
    "ssm": {"GetParameter": _parameter("GetParameter"), "GetParameters": _parameter("GetParameters")},
    "stepfunctions": states.READERS,
    # API Reference, GetCallerIdentity: "No permissions are required to perform this operation."
    "sts": {"AssumeRole": _assume, "GetCallerIdentity": _nothing},
}
