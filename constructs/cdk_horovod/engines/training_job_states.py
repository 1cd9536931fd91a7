"""The states that start, describe and stop SageMaker training jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.rates import PRICE_OF
from cdk_horovod.asl.states import NO_OUTPUT, call_aws, call_permitted, jsonata
from cdk_horovod.asl.steps import Steps
from cdk_horovod.engines.group_states import fenced, run_tags
from cdk_horovod.engines.training_job_list import FOUND, list_jobs
from horovod_node import contract

CREATED_ALREADY: Final = "SageMaker.ResourceInUseException"
"""Error of a second call with the same name: the answer to the first one got lost."""
QUOTA_REACHED: Final = "SageMaker.ResourceLimitExceededException"
MOST_RUNTIME_SECONDS: Final = 432_000
"""Longest run of a job, five days ("Amazon SageMaker AI endpoints and quotas" in the AWS General Reference)."""
LEAST_RUNTIME_SECONDS: Final = 60
"""A job that has used up its money gets this long to say so."""

JOBS_OF_THE_RUN: Final = """(
  $slug := $substring($replace($lowercase($run), /[^a-z0-9]+/, '-'), 0, 16);
  $fleet.group & '-' & $slug & '-' & $substring($hash($run_id, 'SHA-256'), 0, 8) & '-'
)"""
"""
Expression of what begins the names of a run's jobs; the attempt's number follows.

A name is of up to 63 letters, digits and hyphens, and is never free again (SageMaker API Reference,
`CreateTrainingJob`: "The name must be unique within an Amazon Web Services Region in an Amazon Web Services account").
Lower case, because the names in job ARNs are, which permissions compare.
"""

JOB: Final = f"({JOBS_OF_THE_RUN} & $attempt)"
"""Expression of the name of the attempt's job."""

_OF_THE_FLEET: Final = "($fleet.group & '-')"
"""Expression of what begins the names of the fleet's jobs."""
_NODES: Final = "($request.gpus / $search.attempt.node_gpus)"

_RUNTIME: Final = """(
  {price_of}
  $nodes := {nodes};
  $usd := $price_of($search.attempt.instance_type, $search.attempt.market, '');
  $time := $request.{max_runtime} - $spent + $search.attempt.seconds + {rest};
  $waited := $exists($times.asked_at) ? $millis() / 1000 - $toMillis($times.asked_at) / 1000 : 0;
  $money := $exists($request.{max_cost}) and $usd > 0
    ? $request.{max_cost} / ($usd * $nodes) * 3600 - $waited : $time;
  $max([{least}, $floor($min([$time, $money, {most}]))])
)"""


class TrainingJobStates:
    """
    States that act on the training jobs whose names begin with `$fleet.group`.

    Args:
        settings: Arguments of `CreateTrainingJob` that are the same for every job.
        environment: Environment of the job's containers that is the same for every job.
        jobs: ARN of all jobs of the engine, with a wildcard.
        seconds_to_save: Time that a job has after the training, for the upload of the model and the end.
    """

    def __init__(
        self, *, settings: Mapping[str, Any], environment: Mapping[str, str], jobs: str, seconds_to_save: int
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._jobs = jobs
        self._runtime = _RUNTIME.format(
            price_of=PRICE_OF,
            nodes=_NODES,
            max_runtime=contract.MAX_RUNTIME_SECONDS,
            max_cost=contract.MAX_COST_USD,
            rest=seconds_to_save,
            least=LEAST_RUNTIME_SECONDS,
            most=MOST_RUNTIME_SECONDS,
        )

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> Steps:
        """
        Create the job of this attempt.

        The job's `MaxRuntimeInSeconds` is its dead-man's switch: SageMaker stops it when the request's time or money is
        used up, whatever else has failed. Spot waits for capacity as long as the attempt; only with Spot may a job have
        `MaxWaitTimeInSeconds` (SageMaker API Reference, `StoppingCondition`).
        """
        spot = f"$search.attempt.market = '{contract.SPOT}'"
        environment = {
            **self._environment,
            contract.ENV_RUN_ID: jsonata("$run_id"),
            contract.ENV_ATTEMPT: jsonata("$string($attempt)"),
            contract.ENV_NODE_MARKET: jsonata("$search.attempt.market"),
        }
        create = call_permitted(
            scope,
            "Create the job",
            service="sagemaker",
            action="createTrainingJob",
            parameters={
                **self._settings,
                "TrainingJobName": fenced(JOB),
                "RoleArn": jsonata("$fleet.rest.role"),
                "ResourceConfig": {
                    "InstanceType": jsonata("$search.attempt.instance_type"),
                    "InstanceCount": jsonata(_NODES),
                    **self._settings["ResourceConfig"],
                },
                "StoppingCondition": jsonata(
                    f"""(
  $runtime := {self._runtime};
  $merge([
    {{'MaxRuntimeInSeconds': $runtime}},
    {spot} ? {{'MaxWaitTimeInSeconds': $runtime + $search.attempt.seconds}} : {{}}
  ])
)"""
                ),
                "EnableManagedSpotTraining": jsonata(spot),
                "Environment": environment,
                "Tags": [{"Key": key, "Value": value} for key, value in run_tags().items()],
            },
            retries=5,
            answers=[CREATED_ALREADY, QUOTA_REACHED],
        )
        create.add_catch(
            sfn.Pass.jsonata(scope, "It was created", outputs=NO_OUTPUT), errors=[CREATED_ALREADY], outputs=NO_OUTPUT
        )
        # A Parallel of one branch, so that the Catch above does not leave the step.
        start = sfn.Parallel.jsonata(scope, "Start nodes", assign=assign, outputs=NO_OUTPUT)
        start.branch(create)
        return (start,)

    def tag(self, scope: Construct) -> Steps:  # noqa: ARG002  # a job is tagged when it is created
        return ()

    def look(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]]) -> Steps:
        """Count the job's GPUs from the moment on at which its instances are there, and its bill begins."""
        runs = "$states.result.TrainingJobStatus = 'InProgress'"
        there = "$exists($states.result.TrainingStartTime)"
        return (
            self._describe(
                scope,
                "See what is there",
                assign=judged(f"({runs} and {there} ? $request.gpus : 0)", f"({runs} and $not({there}))"),
            ),
        )

    def explain(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> Steps:
        """
        Read the job's `FailureReason`, else its last status.

        A job that waits for capacity has no reason yet: "Insufficient capacity error from EC2 while launching
        instances, retrying!" is a status message. One whose wait is over is stopped with `MaxWaitTimeExceeded`.
        """
        last = "$states.result.SecondaryStatusTransitions[-1]"
        words = f"""$exists($states.result.FailureReason) ? [$states.result.FailureReason]
          : [$join([$states.result.SecondaryStatus, {last}.StatusMessage], ': ')]"""
        return (self._describe(scope, "Find out why", assign=judged(words)),)

    def replace(self, scope: Construct) -> Steps:  # noqa: ARG002  # a job's instances end together
        return ()

    def restore(self, scope: Construct) -> Steps:  # noqa: ARG002  # nothing is left of a job
        return ()

    def terminate(self, scope: Construct) -> Steps:
        """Stop every job of the fleet; SageMaker sends its containers SIGTERM and ends them 120 seconds later."""
        stop = call_aws(
            scope,
            "Stop the job",
            service="sagemaker",
            action="stopTrainingJob",
            parameters={"TrainingJobName": fenced("$states.input.name")},
            resources=[self._jobs],
            retries=2,
        )
        # It has ended by itself, or the next look finds it again.
        stop.add_catch(sfn.Pass.jsonata(scope, "It stops by itself", outputs=NO_OUTPUT))
        each = sfn.Map.jsonata(
            scope,
            "Terminate",
            items=sfn.ProvideItems.jsonata(jsonata("$jobs")),
            max_concurrency=4,
            outputs=NO_OUTPUT,
        )
        each.item_processor(stop)
        return (
            list_jobs(
                scope,
                "Look for jobs to stop",
                what="jobs to stop",
                prefix=_OF_THE_FLEET,
                assign={"jobs": jsonata(f"[$filter({FOUND}, function($job) {{ $job.status = 'InProgress' }})]")},
            ),
            each,
        )

    def confirm(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]] | None = None) -> Steps:
        """Count the jobs that run or stop; those that were not told to stop yet are what is desired."""

        def of(*statuses: str) -> str:
            return f"$count($filter({FOUND}, function($job) {{ $job.status in {json.dumps(statuses)} }}))"

        running, wanted = of("InProgress", "Stopping"), of("InProgress")
        return (
            list_jobs(
                scope,
                "Confirm that nothing runs",
                what="jobs that run",
                prefix=_OF_THE_FLEET,
                assign={
                    "running": jsonata(running),
                    "staying": [],
                    **({} if judged is None else judged(running, wanted)),
                },
            ),
        )

    def end(self, scope: Construct) -> Steps:  # noqa: ARG002  # a stopped job always ends
        return ()

    def bill(self, scope: Construct) -> Steps:
        """
        Read what SageMaker bills for each job of the run.

        SageMaker bills every instance from `TrainingStartTime` to `TrainingEndTime`; with managed Spot fewer seconds at
        the same price, `BillableTimeInSeconds` (SageMaker API Reference, `DescribeTrainingJob`).
        """
        describe = call_aws(
            scope,
            "Read the job's bill",
            service="sagemaker",
            action="describeTrainingJob",
            parameters={"TrainingJobName": jsonata("$states.input.name")},
            resources=[self._jobs],
            outputs=jsonata(
                f"""{{
  'job': $states.result.TrainingJobName,
  'instance_type': $states.result.ResourceConfig.InstanceType,
  'market': $states.result.EnableManagedSpotTraining = true ? '{contract.SPOT}' : '{contract.ON_DEMAND}',
  'nodes': $states.result.ResourceConfig.InstanceCount,
  'seconds': $exists($states.result.TrainingTimeInSeconds) ? $states.result.TrainingTimeInSeconds : 0,
  'billed_seconds': $exists($states.result.BillableTimeInSeconds) ? $states.result.BillableTimeInSeconds : 0
}}"""
            ),
        )
        each = sfn.Map.jsonata(
            scope,
            "Read the bills",
            items=sfn.ProvideItems.jsonata(jsonata("$jobs")),
            max_concurrency=4,
            assign={"bills": jsonata("[$states.result]")},
            outputs=NO_OUTPUT,
        )
        each.item_processor(describe)
        return (
            list_jobs(
                scope,
                "Look for jobs of the run",
                what="jobs of the run",
                prefix=JOBS_OF_THE_RUN,
                assign={"jobs": jsonata(FOUND)},
            ),
            each,
        )

    def _describe(self, scope: Construct, name: str, *, assign: Mapping[str, Any]) -> sfn.TaskStateBase:
        return call_aws(
            scope,
            name,
            service="sagemaker",
            action="describeTrainingJob",
            parameters={"TrainingJobName": jsonata(JOB)},
            resources=[self._jobs],
            assign=assign,
        )
