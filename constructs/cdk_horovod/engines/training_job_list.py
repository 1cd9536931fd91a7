"""The states that list training jobs of one fleet or run, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import MOMENT, NO_OUTPUT, call_aws, jsonata

DAYS: Final = 8
"""Days in which a job that still runs was created: it runs for five at most, and waits for capacity before."""

FOUND: Final = "[$states.result[0].jobs]"
"""Expression, in the state's own `Assign`, of the jobs, each with `name` and `status`; the newest first."""


def list_jobs(scope: Construct, name: str, *, what: str, prefix: str, assign: Mapping[str, Any]) -> sfn.Parallel:
    """
    Build the state that lists the jobs of the last `DAYS` whose names begin with *prefix*.

    It reads all jobs of the account and Region, and selects by itself: a page of `ListTrainingJobs` is cut before
    filters such as `StatusEquals` are applied (SageMaker API Reference, `ListTrainingJobs`), so a filtered page may be
    empty although a job runs. The pages are read in a Parallel of one branch, so that one state tells the result.

    Args:
        scope: Scope of the states.
        name: Name of the state.
        what: What the jobs are, for the names of the states in it: `jobs to stop`.
        prefix: Expression of what begins their names.
        assign: Variables to set from `FOUND`.
    """
    jobs = f"""[$map(
  $filter($states.result.TrainingJobSummaries, function($job) {{
    $substring($job.TrainingJobName, 0, $length({prefix})) = {prefix}
  }}),
  function($job) {{ {{'name': $job.TrainingJobName, 'status': $job.TrainingJobStatus}} }}
)]"""
    following = f"""(
  $moment := {MOMENT};
  $exists($states.result.NextToken)
    and $moment($states.result.TrainingJobSummaries[-1].CreationTime) > $millis() - {DAYS * 86_400_000}
    ? $states.result.NextToken : ''
)"""

    def page(name: str, *, so_far: str, **token: str) -> sfn.TaskStateBase:
        return call_aws(
            scope,
            name,
            service="sagemaker",
            action="listTrainingJobs",
            parameters={"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 100, **token},
            resources=["*"],  # ListTrainingJobs supports no resource-level permissions
            assign={"listed": jsonata(f"[$append({so_far}, {jobs})]"), "page_after": jsonata(following)},
        )

    older = page(f"List older {what}", so_far="$listed", NextToken=jsonata("$page_after"))
    more = (
        sfn.Choice.jsonata(scope, f"Older {what}?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$page_after != ''")), older)
        .otherwise(sfn.Pass.jsonata(scope, f"Give {what}", outputs={"jobs": jsonata("[$listed]")}))
    )
    older.next(more)
    found = sfn.Parallel.jsonata(scope, name, assign=assign, outputs=NO_OUTPUT)
    found.branch(page(f"List {what}", so_far="[]").next(more))
    return found
