"""
ListTrainingJobs.

SageMaker sorts all jobs of the Region, takes a page of them, and drops from the page what the filters do not want. So a
page may be empty although a later one has jobs. The API Reference says so of `StatusEquals`; of `NameContains` users
report it, with an empty page of 100 (boto/boto3 issues 2838 and 3347). Here it holds for all filters, so that nobody
relies on less. A page has 10 jobs by default, as users report of such calls (boto/boto3 issue 4020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from horovod_local.corrections.sagemaker.training_job import TrainingJob

_PAGE: Final = 10
_SORTED_BY: Final[Mapping[str, Callable[[TrainingJob], Any]]] = {
    "Name": lambda job: job.name,
    "CreationTime": lambda job: job.created_at,
    "Status": lambda job: job.status,
}
_FILTERS: Final[Mapping[str, Callable[[TrainingJob, Any], bool]]] = {
    "CreationTimeAfter": lambda job, at: job.created_at.timestamp() > at,
    "CreationTimeBefore": lambda job, at: job.created_at.timestamp() < at,
    "LastModifiedTimeAfter": lambda job, at: job.modified_at.timestamp() > at,
    "LastModifiedTimeBefore": lambda job, at: job.modified_at.timestamp() < at,
    "NameContains": lambda job, text: text in job.name,
    "StatusEquals": lambda job, status: job.status == status,
    # No job has a warm pool or a training plan.
    "TrainingPlanArnEquals": lambda _job, _arn: False,
    "WarmPoolStatusEquals": lambda _job, _status: False,
}


def list_jobs(jobs: Iterable[TrainingJob], request: Mapping[str, Any]) -> dict[str, Any]:
    """
    Answer ListTrainingJobs.

    Args:
        jobs: The jobs of the Region.
        request: The parameters.

    Raises:
        ValueError: If `NextToken` is not one that this function returned.
    """
    key = _SORTED_BY[request.get("SortBy") or "CreationTime"]
    listed = sorted(jobs, key=key, reverse=request.get("SortOrder") == "Descending")
    begin = int(request.get("NextToken") or 0)
    end = begin + (request.get("MaxResults") or _PAGE)
    wanted = [(_FILTERS[name], value) for name, value in request.items() if name in _FILTERS and value is not None]
    found = [job.summary() for job in listed[begin:end] if all(fits(job, value) for fits, value in wanted)]
    return {"TrainingJobSummaries": found, **({"NextToken": str(end)} if end < len(listed) else {})}
