"""
EC2 Auto Scaling, and what a group with a launch template needs of EC2 and IAM.

Sources: Amazon EC2 Auto Scaling User Guide, "Control Amazon EC2 launch template usage in Auto Scaling groups"
(`ec2:RunInstances`, `ec2:CreateTags` and `iam:PassRole` "are checked when an Auto Scaling group is created or updated
using a launch template"), "Amazon EC2 Auto Scaling API permissions" and "Troubleshoot Amazon EC2 Auto Scaling: Launch
templates"; Service Authorization Reference, "Actions, resources, and condition keys for Amazon EC2" (the resources of
RunInstances).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from horovod_local.permissions.requests.asked import Asked, Check, Reader, on_nothing
from horovod_local.permissions.stored import role_of_profile

TEMPLATE: Final = "launch template"
"""`via` of what is checked for a group's launch template."""


def _arn(asked: Asked, name: str) -> str:
    group = asked.backend("autoscaling").autoscaling_groups.get(name)
    # Before a group is there, its id is not known.
    return str(group.arn) if group else asked.arn("autoscaling", f"autoScalingGroup:*:autoScalingGroupName/{name}")


def _on_group(action: str) -> Reader:
    return lambda asked: (
        Check(action=f"autoscaling:{action}", resource=_arn(asked, asked.parameters["AutoScalingGroupName"])),
    )


def _by_instance(action: str) -> Reader:
    def read(asked: Asked) -> Iterable[Check]:
        given = asked.parameters
        ids = {given["InstanceId"]} if "InstanceId" in given else set(given.get("InstanceIds") or ())
        groups = list(asked.backend("autoscaling").autoscaling_groups.values())
        arns = {group.arn for group in groups for state in group.instance_states if state.instance.id in ids}
        # For an instance that is in no group any more the service has none to ask about: it says ValidationError.
        for arn in sorted(arns):
            yield Check(action=f"autoscaling:{action}", resource=arn)

    return read


def _tag(action: str) -> Reader:
    return lambda asked: tuple(
        Check(action=f"autoscaling:{action}", resource=_arn(asked, name))
        for name in sorted({tag["ResourceId"] for tag in asked.parameters["Tags"]})
    )


def _with_template(action: str) -> Reader:
    def read(asked: Asked) -> Iterable[Check]:
        given = asked.parameters
        specification = _specification(given) or _own_specification(asked, given["AutoScalingGroupName"])
        version = str(specification.get("Version", "")) if specification else ""
        numbered = {"autoscaling:launchtemplateversionspecified": (str(version.isdigit()).lower(),)}
        yield Check(
            action=f"autoscaling:{action}",
            resource=_arn(asked, given["AutoScalingGroupName"]),
            context=numbered if specification else {},
        )
        if specification:
            yield from _launch(asked, specification, given)

    return read


def _specification(given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    mixed = (given.get("MixedInstancesPolicy") or {}).get("LaunchTemplate") or {}
    return given.get("LaunchTemplate") or mixed.get("LaunchTemplateSpecification")


def _own_specification(asked: Asked, name: str) -> Mapping[str, Any] | None:
    """
    Give the launch template that a group has already.

    Whether an update that names no template is "using a launch template" the guide leaves open. Here it is, so that
    nothing passes that AWS might refuse.
    """
    group = asked.backend("autoscaling").autoscaling_groups.get(name)
    if group is None or not group.ec2_launch_template:
        return None
    return {"LaunchTemplateId": group.ec2_launch_template.id, "Version": group.launch_template_version}


def _launch(asked: Asked, specification: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Check]:
    """Walk what launching one instance from the template needs."""
    ec2 = asked.backend("ec2")
    version = ec2._get_template_from_args({key: value for key, value in specification.items() if value is not None})
    template, data = version.template, version.data
    context = {"ec2:launchtemplate": (asked.arn("ec2", f"launch-template/{template.id}"),)}
    for resource in _resources(asked, template.id, data, given):
        yield Check(action="ec2:RunInstances", resource=resource, context=context, via=TEMPLATE)
    for tags in data.get("TagSpecifications") or ():
        yield Check(
            action="ec2:CreateTags",
            resource=asked.arn("ec2", f"{tags['ResourceType']}/*"),
            context={**context, "ec2:createaction": ("RunInstances",)},
            via=TEMPLATE,
        )
    role = role_of_profile(data.get("IamInstanceProfile") or {}, account=asked.account, partition=asked.partition)
    if role:
        yield Check(
            action="iam:PassRole",
            resource=role,
            context={"iam:passedtoservice": (_ec2_service(asked),)},
            via=TEMPLATE,
        )


def _resources(asked: Asked, template: str, data: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    yield asked.arn("ec2", f"launch-template/{template}")
    yield f"arn:{asked.partition}:ec2:{asked.call.region}::image/{data.get('ImageId', '*')}"
    for kind in ("instance", "network-interface", "volume"):
        yield asked.arn("ec2", f"{kind}/*")
    interfaces = data.get("NetworkInterfaces") or ()
    groups = [*(data.get("SecurityGroupIds") or ()), *(name for one in interfaces for name in one.get("Groups") or ())]
    for group in groups:
        yield asked.arn("ec2", f"security-group/{group}")
    for subnet in str(given.get("VPCZoneIdentifier") or "").split(","):
        if subnet:
            yield asked.arn("ec2", f"subnet/{subnet.strip()}")


def _ec2_service(asked: Asked) -> str:
    return "ec2.amazonaws.com.cn" if asked.partition == "aws-cn" else "ec2.amazonaws.com"


READERS: Final[dict[str, Reader]] = {
    **{
        name: on_nothing(f"autoscaling:{name}")
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
