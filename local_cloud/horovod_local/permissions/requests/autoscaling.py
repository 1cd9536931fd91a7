"""
EC2 Auto Scaling, and the permissions of EC2 and IAM that a group with a launch template needs.

Sources: Amazon EC2 Auto Scaling User Guide, "Control Amazon EC2 launch template usage in Auto Scaling groups"
(`ec2:RunInstances`, `ec2:CreateTags` and `iam:PassRole` "are checked when an Auto Scaling group is created or updated
using a launch template"), "Amazon EC2 Auto Scaling API permissions" and "Troubleshoot Amazon EC2 Auto Scaling: Launch
templates"; Service Authorization Reference, "Actions, resources, and condition keys for Amazon EC2" (the resources of
RunInstances).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from horovod_local.permissions.deployed_policies import role_of_profile
from horovod_local.permissions.requests.service_request import (
    PermissionRule,
    RequiredPermission,
    ServiceRequest,
    without_resource,
)

TEMPLATE: Final = "launch template"
"""`RequiredPermission.via` of the permissions that a group's launch template needs."""


def _arn(request: ServiceRequest, name: str) -> str:
    group = request.backend("autoscaling").autoscaling_groups.get(name)
    # The id of a group that does not exist yet is unknown.
    return str(group.arn) if group else request.arn("autoscaling", f"autoScalingGroup:*:autoScalingGroupName/{name}")


def _on_group(action: str) -> PermissionRule:
    return lambda request: (
        RequiredPermission(
            action=f"autoscaling:{action}", resource=_arn(request, request.parameters["AutoScalingGroupName"])
        ),
    )


def _by_instance(action: str) -> PermissionRule:
    def read(request: ServiceRequest) -> Iterable[RequiredPermission]:
        given = request.parameters
        ids = {given["InstanceId"]} if "InstanceId" in given else set(given.get("InstanceIds") or ())
        groups = list(request.backend("autoscaling").autoscaling_groups.values())
        arns = {group.arn for group in groups for state in group.instance_states if state.instance.id in ids}
        # An instance in no group has no ARN to check; the service then answers ValidationError.
        for arn in sorted(arns):
            yield RequiredPermission(action=f"autoscaling:{action}", resource=arn)

    return read


def _tag(action: str) -> PermissionRule:
    return lambda request: tuple(
        RequiredPermission(action=f"autoscaling:{action}", resource=_arn(request, name))
        for name in sorted({tag["ResourceId"] for tag in request.parameters["Tags"]})
    )


def _with_template(action: str) -> PermissionRule:
    def read(request: ServiceRequest) -> Iterable[RequiredPermission]:
        given = request.parameters
        specification = _specification(given) or _own_specification(request, given["AutoScalingGroupName"])
        version = str(specification.get("Version", "")) if specification else ""
        numbered = {"autoscaling:launchtemplateversionspecified": (str(version.isdigit()).lower(),)}
        yield RequiredPermission(
            action=f"autoscaling:{action}",
            resource=_arn(request, given["AutoScalingGroupName"]),
            context=numbered if specification else {},
        )
        if specification:
            yield from _launch(request, specification, given)

    return read


def _specification(given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    mixed = (given.get("MixedInstancesPolicy") or {}).get("LaunchTemplate") or {}
    return given.get("LaunchTemplate") or mixed.get("LaunchTemplateSpecification")


def _own_specification(request: ServiceRequest, name: str) -> Mapping[str, Any] | None:
    """
    Return the launch template that a group already has.

    The guide does not say whether an update without a template is "using a launch template". Here it is, so that
    nothing is allowed that AWS might refuse.
    """
    group = request.backend("autoscaling").autoscaling_groups.get(name)
    if group is None or not group.ec2_launch_template:
        return None
    return {"LaunchTemplateId": group.ec2_launch_template.id, "Version": group.launch_template_version}


def _launch(
    request: ServiceRequest, specification: Mapping[str, Any], given: Mapping[str, Any]
) -> Iterator[RequiredPermission]:
    """Yield the permissions that launching one instance from the template needs."""
    ec2 = request.backend("ec2")
    version = ec2._get_template_from_args({key: value for key, value in specification.items() if value is not None})
    template, data = version.template, version.data
    context = {"ec2:launchtemplate": (request.arn("ec2", f"launch-template/{template.id}"),)}
    for resource in _resources(request, template.id, data, given):
        yield RequiredPermission(action="ec2:RunInstances", resource=resource, context=context, via=TEMPLATE)
    for tags in data.get("TagSpecifications") or ():
        yield RequiredPermission(
            action="ec2:CreateTags",
            resource=request.arn("ec2", f"{tags['ResourceType']}/*"),
            context={**context, "ec2:createaction": ("RunInstances",)},
            via=TEMPLATE,
        )
    role = role_of_profile(data.get("IamInstanceProfile") or {}, account=request.account, partition=request.partition)
    if role:
        yield RequiredPermission(
            action="iam:PassRole",
            resource=role,
            context={"iam:passedtoservice": (_ec2_service(request),)},
            via=TEMPLATE,
        )


def _resources(
    request: ServiceRequest, template: str, data: Mapping[str, Any], given: Mapping[str, Any]
) -> Iterator[str]:
    yield request.arn("ec2", f"launch-template/{template}")
    yield f"arn:{request.partition}:ec2:{request.call.region}::image/{data.get('ImageId', '*')}"
    for kind in ("instance", "network-interface", "volume"):
        yield request.arn("ec2", f"{kind}/*")
    interfaces = data.get("NetworkInterfaces") or ()
    groups = [*(data.get("SecurityGroupIds") or ()), *(name for one in interfaces for name in one.get("Groups") or ())]
    for group in groups:
        yield request.arn("ec2", f"security-group/{group}")
    for subnet in str(given.get("VPCZoneIdentifier") or "").split(","):
        if subnet:
            yield request.arn("ec2", f"subnet/{subnet.strip()}")


def _ec2_service(request: ServiceRequest) -> str:
    return "ec2.amazonaws.com.cn" if request.partition == "aws-cn" else "ec2.amazonaws.com"


RULES: Final[dict[str, PermissionRule]] = {
    **{
        name: without_resource(f"autoscaling:{name}")
        for name in (
            "DescribeAutoScalingGroups",
            "DescribeAutoScalingInstances",
            "DescribeScalingActivities",
            "DescribeTags",
        )
    },
    **{
        name: _on_group(name)
        for name in (
            "DeleteAutoScalingGroup",
            "EnterStandby",
            "ExitStandby",
            "ResumeProcesses",
            "SetDesiredCapacity",
            "SetInstanceProtection",
            "SuspendProcesses",
        )
    },
    "CreateAutoScalingGroup": _with_template("CreateAutoScalingGroup"),
    "CreateOrUpdateTags": _tag("CreateOrUpdateTags"),
    "DeleteTags": _tag("DeleteTags"),
    "SetInstanceHealth": _by_instance("SetInstanceHealth"),
    "TerminateInstanceInAutoScalingGroup": _by_instance("TerminateInstanceInAutoScalingGroup"),
    "UpdateAutoScalingGroup": _with_template("UpdateAutoScalingGroup"),
}
