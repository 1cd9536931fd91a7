"""
What SageMaker refuses in a training job beyond the constraints of its model, and what the local cloud does not act.

Sources: SageMaker API Reference, CreateTrainingJob, `StoppingCondition` and `ResourceConfig`; SageMaker Developer
Guide, "Managed Spot Training"; AWS General Reference, "Amazon SageMaker endpoints and quotas"; messages as users report
them (Kenza-AI/sagify issue 111, aws/amazon-sagemaker-examples issue 1543).

These members have no effect, because the local cloud has neither a network nor volumes, and encrypts nothing:
`VpcConfig` (but for the endpoints' policies), `EnableInterContainerTrafficEncryption`, `VolumeSizeInGB`,
`VolumeKmsKeyId`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_ALL: Final[Mapping[str, Any]] = {}
"""Stands for all members of a structure."""
_ACTED: Final[Mapping[str, Any]] = {
    "AlgorithmSpecification": {"TrainingImage": _ALL, "TrainingInputMode": _ALL},
    "EnableInterContainerTrafficEncryption": _ALL,
    "EnableManagedSpotTraining": _ALL,
    "Environment": _ALL,
    "HyperParameters": _ALL,
    "OutputDataConfig": {"KmsKeyId": _ALL, "S3OutputPath": _ALL},
    "ResourceConfig": {
        "InstanceCount": _ALL,
        "InstanceType": _ALL,
        # Refused unless it is 0: the quota of warm pools is 0 by default.
        "KeepAlivePeriodInSeconds": _ALL,
        "VolumeKmsKeyId": _ALL,
        "VolumeSizeInGB": _ALL,
    },
    "RetryStrategy": _ALL,
    "RoleArn": _ALL,
    "StoppingCondition": {"MaxRuntimeInSeconds": _ALL, "MaxWaitTimeInSeconds": _ALL},
    "Tags": _ALL,
    "TrainingJobName": _ALL,
    "VpcConfig": _ALL,
}
"""The members of a request that are acted; all others are refused, unless they ask for nothing."""
_NOTHING: Final = {
    "AlgorithmSpecification.TrainingImageConfig.TrainingRepositoryAccessMode": "Platform",
    "OutputDataConfig.CompressionType": "GZIP",
    "ProfilerConfig.DisableProfiler": True,
}
"""Values, besides `False`, that ask for what happens anyway."""
_REQUIRED: Final = (
    "AlgorithmSpecification.TrainingImage",
    "ResourceConfig.InstanceCount",
    "ResourceConfig.InstanceType",
    "StoppingCondition.MaxRuntimeInSeconds",
)
"""Optional in the model, because jobs of other kinds do without them; a default of one day must not be relied on."""

LONGEST_RUNTIME_SECONDS: Final = 28 * 86_400
MOST_RUNTIME_SECONDS: Final = 432_000
"""Default quota "Longest run time for a training job"."""
MOST_INSTANCES: Final = 20
"""Default quota "Number of instances for a training job"."""
_EBS_ONLY: Final = ("p2", "p3")
"""Families without local storage that moto does not know."""


def violation(request: Mapping[str, Any]) -> str:
    """Say why SageMaker, or the local cloud, refuses a request that fulfils the model's constraints; '' if neither."""
    return next(_violations(request), "")


def exceeded_quota(request: Mapping[str, Any]) -> str:
    """Say which default quota of an account a request exceeds; '' if none. Quotas of instance types are faults."""
    resources, stopping = request["ResourceConfig"], request["StoppingCondition"]
    kind, count = resources["InstanceType"], resources["InstanceCount"]
    if resources.get("KeepAlivePeriodInSeconds"):
        return limit_message(f"{kind} for training warm pool usage", delta=count)
    if count > MOST_INSTANCES:
        return limit_message("Number of instances for a training job", limit=MOST_INSTANCES, delta=count)
    seconds = stopping["MaxRuntimeInSeconds"]
    if seconds > MOST_RUNTIME_SECONDS:
        return limit_message(
            "Longest run time for a training job", limit=MOST_RUNTIME_SECONDS, delta=seconds, unit="Seconds"
        )
    return ""


def limit_message(quota: str, *, delta: int, limit: int = 0, unit: str = "Instances") -> str:
    """Word that a request exceeds *quota*, as SageMaker does."""
    return (
        f"The account-level service limit '{quota}' is {limit} {unit}, with current utilization of 0 {unit} and a "
        f"request delta of {delta} {unit}. Please use AWS Service Quotas to request an increase for this quota. If AWS "
        "Service Quotas is not available, contact AWS support to request an increase for this quota."
    )


def _violations(request: Mapping[str, Any]) -> Iterator[str]:
    for place in _REQUIRED:
        structure, _, name = place.partition(".")
        if (request.get(structure) or {}).get(name) is None:
            yield f"{place} is required for a training job"
    for place in _not_acted(request, _ACTED):
        yield f"the local cloud does not act {place} of a training job"
    yield from _wrong_times(request)
    yield from _wrong_resources(request["ResourceConfig"])
    if not request["OutputDataConfig"]["S3OutputPath"].startswith("s3://"):
        yield "the local cloud does not act an OutputDataConfig.S3OutputPath that does not begin with s3://"
    yield from wrong_tags(request.get("Tags") or ())


def _not_acted(value: Mapping[str, Any], acted: Mapping[str, Any], *, place: str = "") -> Iterator[str]:
    for name, item in value.items():
        here = f"{place}.{name}".removeprefix(".")
        if name not in acted:
            if not _asks_for_nothing(item, place=here):
                yield here
        elif acted[name] and isinstance(item, Mapping):
            yield from _not_acted(item, acted[name], place=here)


def _asks_for_nothing(value: Any, *, place: str) -> bool:
    if isinstance(value, Mapping):
        return all(_asks_for_nothing(item, place=f"{place}.{name}") for name, item in value.items())
    return value is None or value is False or value == [] or (place in _NOTHING and value == _NOTHING[place])


def _wrong_times(request: Mapping[str, Any]) -> Iterator[str]:
    stopping = request["StoppingCondition"]
    runtime, wait = stopping["MaxRuntimeInSeconds"], stopping.get("MaxWaitTimeInSeconds")
    if runtime > LONGEST_RUNTIME_SECONDS:
        yield f"Invalid MaxRuntimeInSeconds. It must be at most {LONGEST_RUNTIME_SECONDS}"
    if request.get("EnableManagedSpotTraining"):
        if wait is None or wait < runtime:
            yield (
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
            )
    elif wait is not None:
        yield "Invalid MaxWaitTimeInSeconds. It is only supported when EnableManagedSpotTraining is set to true"


def _wrong_resources(resources: Mapping[str, Any]) -> Iterator[str]:
    kind = resources["InstanceType"]
    if resources["InstanceCount"] < 1:
        yield "ResourceConfig.InstanceCount must be at least 1"
    has_storage = _has_local_storage(kind)
    if has_storage is None:
        yield f"the local cloud does not know the instance type {kind}"
    elif not has_storage and not resources.get("VolumeSizeInGB"):
        yield f"ResourceConfig.VolumeSizeInGB is required for {kind}, which has no local storage"
    elif has_storage and resources.get("VolumeKmsKeyId"):
        yield f"ResourceConfig.VolumeKmsKeyId is not supported for {kind}, which has local storage"


def _has_local_storage(kind: str) -> bool | None:
    """Whether instances of a type have local storage; None if that is not known."""
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    name = kind.removeprefix("ml.")
    if name not in INSTANCE_TYPES:
        return False if name.partition(".")[0] in _EBS_ONLY else None
    return bool(INSTANCE_TYPES[name]["InstanceStorageSupported"])


def wrong_tags(tags: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Say what is wrong with *tags* (API Reference, `Tag`: "Tag keys must be unique per resource")."""
    keys = [tag["Key"] for tag in tags]
    if len(set(keys)) < len(keys):
        yield "Duplicate tag keys found"
    if any(key.lower().startswith("aws:") for key in keys):
        yield "Tag keys must not begin with aws:, which is reserved"
