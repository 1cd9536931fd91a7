"""The API of training jobs: corrections that replace moto's, in which every job has completed when it is created."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from horovod_local.corrections.permissions import may_assume
from horovod_local.corrections.registry import correction
from horovod_local.corrections.sagemaker import request_rules
from horovod_local.corrections.sagemaker.constraints import broken_constraints
from horovod_local.corrections.sagemaker.listing import list_jobs
from horovod_local.corrections.sagemaker.training_job import TrainingJob
from horovod_local.permissions.requests.sagemaker import SAGEMAKER
from horovod_local.shared.faults import ACTIVE_FAULTS, CAPACITY, MARKETS, QUOTA

MOST_TAGS: Final = 50
"""Tags of one resource (API Reference, `AddTags`)."""
NOT_FOUND: Final = "Requested resource not found."


@correction(
    moto="completes every training job when it is created, and has no StopTrainingJob",
    aws="starts its instances and containers, and stops them on request, which takes up to two minutes",
)
def training_jobs_live() -> None:
    from moto.core.responses import ActionResult, EmptyResult
    from moto.sagemaker.responses import SageMakerResponse

    creating = threading.Lock()

    def create_training_job(self: Any) -> Any:
        backend, request = self.sagemaker_backend, _request(self, "CreateTrainingJob")
        problem = request_rules.violation(request)
        if problem:
            raise invalid(problem)
        account, region = backend.account_id, backend.region_name
        vpc = _vpc_of(request.get("VpcConfig"), account=account, region=region)
        job = TrainingJob(account=account, region=region, request=request, vpc=vpc)
        with creating:
            _refuse(job, list(backend.training_jobs.values()))
            backend.training_jobs[job.name] = job
        return ActionResult({"TrainingJobArn": job.arn})

    def describe_training_job(self: Any) -> Any:
        return ActionResult(_named(self, "DescribeTrainingJob").describe())

    def stop_training_job(self: Any) -> Any:
        job = _named(self, "StopTrainingJob")
        if not job.request_stop():
            raise invalid(f"The request was rejected because the training job is in status {job.status}.")
        return EmptyResult()

    SageMakerResponse.create_training_job = create_training_job
    SageMakerResponse.describe_training_job = describe_training_job
    SageMakerResponse.stop_training_job = stop_training_job


@correction(
    moto="sorts no training jobs, lists all of them at once, and calls none by its secondary status",
    aws="sorts them, and takes a page before it filters, so that a page may be empty although a later one is not",
)
def training_jobs_are_filtered_by_page() -> None:
    from moto.core.responses import ActionResult
    from moto.sagemaker.responses import SageMakerResponse

    def list_training_jobs(self: Any) -> Any:
        request = _request(self, "ListTrainingJobs")
        try:
            return ActionResult(list_jobs(list(self.sagemaker_backend.training_jobs.values()), request))
        except ValueError:
            raise invalid("Invalid pagination token") from None

    SageMakerResponse.list_training_jobs = list_training_jobs


@correction(
    moto="adds a tag that a training job has a second time, and answers 500 for a job that does not exist",
    aws="overwrites the tag, and refuses an unknown job",
)
def tags_of_training_jobs_are_unique() -> None:
    from moto.sagemaker.models import SageMakerModelBackend

    get_resource_from_arn = SageMakerModelBackend._get_resource_from_arn
    add_to_others: Callable[..., list[dict[str, str]]] = SageMakerModelBackend.add_tags

    def find(self: Any, arn: str) -> Any:
        if ":training-job/" not in arn:
            return get_resource_from_arn(self, arn)
        # By its ARN, which has the name in lower case.
        job = next((job for job in list(self.training_jobs.values()) if job.arn == arn), None)
        if job is None:
            raise invalid(NOT_FOUND)
        return job

    def add_tags(self: Any, arn: str, tags: list[dict[str, str]]) -> list[dict[str, str]]:
        resource = find(self, arn)
        if not isinstance(resource, TrainingJob):
            return add_to_others(self, arn, tags)
        kept = {tag["Key"]: tag for tag in [*resource.tags, *tags]}
        problem = broken_constraints("AddTags", {"ResourceArn": arn, "Tags": tags})
        problem = problem or next(request_rules.wrong_tags(tags), "")
        if problem or len(kept) > MOST_TAGS:
            raise invalid(problem or f"A resource can have at most {MOST_TAGS} tags")
        resource.tags = list(kept.values())
        return resource.tags

    SageMakerModelBackend._get_resource_from_arn = find
    SageMakerModelBackend.add_tags = add_tags


@correction(
    moto="accepts rules for the events of SageMaker, which it never sends",
    aws="sends them; here such rules are refused",
)
def rules_for_events_of_sagemaker_are_refused() -> None:
    from moto.events.exceptions import ValidationException
    from moto.events.models import EventsBackend

    put_rule = EventsBackend.put_rule

    def put(self: Any, name: str, **kwargs: Any) -> Any:
        # A template's pattern is an object, a request's is text.
        pattern = kwargs.get("event_pattern")
        if '"aws.sagemaker"' in (pattern if isinstance(pattern, str) else json.dumps(pattern)):
            raise ValidationException("the local cloud sends no events of aws.sagemaker")
        return put_rule(self, name, **kwargs)

    EventsBackend.put_rule = put


def invalid(message: str) -> Exception:
    """Make SageMaker's ValidationException."""
    return _error("ValidationException", message)


def _error(code: str, message: str) -> Exception:
    from moto.sagemaker.exceptions import SagemakerClientError

    error: Exception = SagemakerClientError(code, message)
    return error


def _request(response: Any, operation: str) -> dict[str, Any]:
    """Read the parameters of a request, as far as they fulfil the constraints of the model."""
    request: dict[str, Any] = json.loads(response.body or "{}")
    broken = broken_constraints(operation, request)
    if broken:
        raise invalid(broken)
    return request


def _named(response: Any, operation: str) -> TrainingJob:
    """Return the job that a request names."""
    jobs = response.sagemaker_backend.training_jobs
    job = jobs.get(_request(response, operation)["TrainingJobName"])
    if not isinstance(job, TrainingJob):
        raise invalid(NOT_FOUND)
    return job


def _refuse(job: TrainingJob, others: Iterable[TrainingJob]) -> None:
    """Refuse a job whose role SageMaker cannot assume, whose name is taken, or for which there is no quota."""
    if not may_assume(SAGEMAKER, job.request["RoleArn"], source=job.arn, account=job.account):
        raise invalid(
            f"Could not assume role {job.request['RoleArn']}. Please ensure that the role exists and allows principal "
            f"'{SAGEMAKER}' to assume the role."
        )
    # Names that differ in case only would share an ARN.
    if any(other.arn == job.arn for other in others):
        raise _error(
            "ResourceInUse",
            "Training job names must be unique within an AWS account and region, and a training job with this name "
            f"already exists ({job.arn})",
        )
    message = request_rules.exceeded_quota(job.request)
    if message:
        raise _error("ResourceLimitExceeded", message)
    why = refusal_of(job)
    if why == QUOTA:
        usage = "spot training job usage" if job.is_spot else "training job usage"
        count = job.request["ResourceConfig"]["InstanceCount"]
        message = request_rules.limit_message(f"{job.instance_type} for {usage}", delta=count)
        raise _error("ResourceLimitExceeded", message)
    if why not in ("", CAPACITY):
        raise _error("ThrottlingException", "Rate exceeded")


def refusal_of(job: TrainingJob) -> str:
    """Return why the active faults refuse the job's instances, one of `faults.REFUSALS`; '' if they do not."""
    on_demand, spot = MARKETS
    kind = {"instance_type": job.instance_type, "market": spot if job.is_spot else on_demand, "zone": ""}
    return next((each.why for each in ACTIVE_FAULTS.faults.refused if each.matches(**kind)), "")


def _vpc_of(network: Mapping[str, Any] | None, *, account: str, region: str) -> str:
    """Return the id of a job's VPC, whose subnets and security groups must exist; '' without `VpcConfig`."""
    from moto.ec2.models import ec2_backends

    if not network:
        return ""
    ec2 = ec2_backends[account][region]
    vpcs = {subnet.id: subnet.vpc_id for zone in list(ec2.subnets.values()) for subnet in list(zone.values())}
    for name in network["Subnets"]:
        if name not in vpcs:
            raise invalid(f"The subnet ID '{name}' does not exist")
    vpc = str(vpcs[network["Subnets"][0]])
    for name in network["SecurityGroupIds"]:
        if name not in ec2.groups.get(vpc, {}):
            raise invalid(f"The security group '{name}' does not exist in VPC '{vpc}'")
    return vpc


CORRECTIONS = (
    training_jobs_live,
    training_jobs_are_filtered_by_page,
    tags_of_training_jobs_are_unique,
    rules_for_events_of_sagemaker_are_refused,
)
