"""
Amazon SageMaker: training jobs and their tags.

Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon SageMaker". ARNs have the
job's name in lower case (boto/boto3 issue 4606), so a policy that names a job must do so, too. CreateTrainingJob needs
`iam:PassRole` on the job's role, and `sagemaker:AddTags` on the job if it has tags ("dependent actions").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from horovod_local.permissions.requests.service_request import (
    PermissionRule,
    RequiredPermission,
    ServiceRequest,
    without_resource,
)

SAGEMAKER: Final = "sagemaker.amazonaws.com"
"""Service principal to which the role of a training job is passed."""


def _arn(request: ServiceRequest) -> str:
    return request.arn("sagemaker", f"training-job/{request.parameters['TrainingJobName'].lower()}")


def _on_job(action: str) -> PermissionRule:
    return lambda request: (RequiredPermission(action=f"sagemaker:{action}", resource=_arn(request)),)


def _on_resource(action: str) -> PermissionRule:
    return lambda request: (
        RequiredPermission(action=f"sagemaker:{action}", resource=request.parameters["ResourceArn"]),
    )


def _create(request: ServiceRequest) -> Iterable[RequiredPermission]:
    given, resource = request.parameters, _arn(request)
    yield RequiredPermission(action="sagemaker:CreateTrainingJob", resource=resource, context=_keys(given))
    yield RequiredPermission(
        action="iam:PassRole", resource=given["RoleArn"], context={"iam:passedtoservice": (SAGEMAKER,)}
    )
    if given.get("Tags"):
        yield RequiredPermission(action="sagemaker:AddTags", resource=resource)


def _keys(given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the condition keys of CreateTrainingJob; what the request does not say has no key."""
    resources, network = given.get("ResourceConfig") or {}, given.get("VpcConfig") or {}
    stopping, debugging = given.get("StoppingCondition") or {}, given.get("RemoteDebugConfig") or {}
    several = {
        "sagemaker:instancetypes": [resources["InstanceType"]] if resources.get("InstanceType") else [],
        "sagemaker:vpcsubnets": network.get("Subnets") or [],
        "sagemaker:vpcsecuritygroupids": network.get("SecurityGroupIds") or [],
    }
    single = {
        "sagemaker:maxruntimeinseconds": stopping.get("MaxRuntimeInSeconds"),
        "sagemaker:keepaliveperiod": resources.get("KeepAlivePeriodInSeconds"),
        "sagemaker:enableremotedebug": debugging.get("EnableRemoteDebug"),
        "sagemaker:intercontainertrafficencryption": given.get("EnableInterContainerTrafficEncryption"),
    }
    return {
        **{key: tuple(values) for key, values in several.items() if values},
        **{key: (str(value).lower(),) for key, value in single.items() if value is not None},
    }


RULES: Final[dict[str, PermissionRule]] = {
    "AddTags": _on_resource("AddTags"),
    "CreateTrainingJob": _create,
    "DescribeTrainingJob": _on_job("DescribeTrainingJob"),
    "ListTags": _on_resource("ListTags"),
    "ListTrainingJobs": without_resource("sagemaker:ListTrainingJobs"),
    "StopTrainingJob": _on_job("StopTrainingJob"),
}
