"""
What SageMaker does with a job's role before it starts the containers: it pulls the image, and in a VPC it makes network
interfaces.

Source: SageMaker Developer Guide, "SageMaker Roles" ("CreateTrainingJob API: Execution Role Permissions"). A role that
lacks one of these permissions fails the job; the words are our own, but for those of an image that cannot be pulled.
"""

from __future__ import annotations

import re
from typing import Final

from horovod_local.corrections.permissions import role_may
from horovod_local.corrections.sagemaker.training_job import TrainingJob

CANNOT_PULL: Final = (
    "ClientError: Cannot pull algorithm container. Either the image does not exist or its permissions are incorrect."
)

_IMAGE: Final = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/([^:@]+)(?:[:@].+)?")
_IN_A_VPC: Final = (
    "CreateNetworkInterface",
    "CreateNetworkInterfacePermission",
    "DeleteNetworkInterface",
    "DeleteNetworkInterfacePermission",
    "DescribeDhcpOptions",
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroups",
    "DescribeSubnets",
    "DescribeVpcs",
)
_PULL: Final = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")


def why_not_started(job: TrainingJob) -> str:
    """Return the FailureReason of a job whose network or image its role does not allow; '' if it allows both."""
    if job.request.get("VpcConfig"):
        for action in _IN_A_VPC:
            if not _may(job, f"ec2:{action}"):
                return f"ClientError: The role {job.request['RoleArn']} is not authorized to perform: ec2:{action}"
    image = _IMAGE.fullmatch(job.request["AlgorithmSpecification"]["TrainingImage"])
    # Whether SageMaker pulls from another Region is not documented.
    if image is None or image[2] != job.region or not _may(job, "ecr:GetAuthorizationToken"):
        return CANNOT_PULL
    partition = job.arn.split(":")[1]
    repository = f"arn:{partition}:ecr:{image[2]}:{image[1]}:repository/{image[3]}"
    return "" if all(_may(job, f"ecr:{action}", on=repository) for action in _PULL) else CANNOT_PULL


def _may(job: TrainingJob, action: str, *, on: str = "*") -> bool:
    return role_may(action, role=job.request["RoleArn"], region=job.region, session="SageMaker", on=on)
