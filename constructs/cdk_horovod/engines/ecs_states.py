"""The states that scale a fleet whose nodes get their containers from Amazon ECS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import MOMENT, NO_OUTPUT, call_aws, call_permitted, jsonata, state_name
from cdk_horovod.asl.steps import Steps
from cdk_horovod.engines.ecs_services import ATTRIBUTE
from cdk_horovod.engines.group_states import GroupStates, fenced

FORGOTTEN_AT_ONCE: Final = 10
"""Most container instances that a run deregisters at its end."""
TASKS_READ: Final = 10
"""Most stopped tasks of each service whose reasons are read."""
EVENTS_KEPT: Final = 3
"""Most events of each service that are repeated; it has up to 100, newest first."""


class EcsStates(GroupStates):
    """
    States that act on the Auto Scaling group in `$fleet.group` and on the services in `$fleet.rest.services`.

    The group makes nodes come and go, as on EC2. The services only say what runs on them.

    Args:
        arns: ARNs of the groups, for the permissions.
        blocks: Whether the fleets are Capacity Blocks.
        services: ARNs of the services, for the permissions.
        cluster: The cluster.
        own_cluster: Whether only this engine uses the cluster.
    """

    def __init__(
        self, *, arns: Sequence[str], blocks: bool, services: Sequence[str], cluster: ecs.ICluster, own_cluster: bool
    ) -> None:
        super().__init__(arns=arns, blocks=blocks)
        self._services = services
        self._cluster = cluster
        self._own_cluster = own_cluster

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> Steps:
        """
        Let the services run the task definitions of this run's template, before the run's first nodes start.

        The fleet is empty then, so that no task is stopped. Later starts of the run change nothing: a deployment
        changes no service, see `ecs_services`.
        """
        # A run that has left another fleet asked for nodes there.
        asked = "$exists($times.asked_at) and $not($exists($times.left_at))"
        choose = sfn.Map.jsonata(
            scope,
            "Choose the tasks",
            items=sfn.ProvideItems.jsonata(jsonata(f"{asked} ? [] : [$fleet.rest.services]")),
            outputs=NO_OUTPUT,
        )
        choose.item_processor(
            call_aws(
                scope,
                "Choose the task",
                service="ecs",
                action="updateService",
                parameters={
                    "Cluster": self._cluster.cluster_name,
                    "Service": fenced("$states.input.service"),
                    "TaskDefinition": jsonata("$states.input.task"),
                },
                resources=self._services,
            )
        )
        return (choose, *super().start(scope, assign=assign))

    def explain(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> Steps:
        """
        Read why launches failed; and where the instances are there without a ring, also what ECS says of each service.

        A task may not fit, or its image may not be pulled. Without instances ECS has nothing to say, and each question
        takes events of the execution's history.
        """
        ask = sfn.Map.jsonata(
            scope,
            "Ask ECS",
            items=sfn.ProvideItems.jsonata(jsonata("$search.step = 'fail' ? [$fleet.rest.services] : []")),
            assign=judged("$append($launch_errors, $states.result.words)"),
            outputs=NO_OUTPUT,
        )
        ask.item_processor(self._read_service(scope))
        launches = super().explain(scope, judged=lambda messages: {"launch_errors": jsonata(f"[{messages}]")})
        return (*launches, ask)

    def restore(self, scope: Construct) -> Steps:
        """
        In a cluster of its own, also deregister instances whose agent was disconnected when they were terminated.

        ECS does not do that by itself ("stopped container instances or instances with disconnected agents aren't
        automatically deregistered when terminated": API Reference, `DeregisterContainerInstance`). In a cluster of
        others it would need permission for their instances.
        """
        if not self._own_cluster:
            return super().restore(scope)
        find = call_aws(
            scope,
            "Find lost instances",
            service="ecs",
            action="listContainerInstances",
            parameters={
                "Cluster": self._cluster.cluster_name,
                "Filter": jsonata(f"'attribute:{ATTRIBUTE} == ' & $fleet.rest.name & ' and agentConnected == false'"),
                "MaxResults": FORGOTTEN_AT_ONCE,
            },
            resources=[self._cluster.cluster_arn],
            assign={"lost_instances": jsonata("[$states.result.ContainerInstanceArns]")},
            retries=1,
        )
        each = sfn.Map.jsonata(
            scope,
            "Forget lost instances",
            items=sfn.ProvideItems.jsonata(jsonata("$lost_instances")),
            outputs=NO_OUTPUT,
        )
        each.item_processor(
            call_aws(
                scope,
                "Forget one",
                service="ecs",
                action="deregisterContainerInstance",
                parameters={
                    "Cluster": self._cluster.cluster_name,
                    "ContainerInstance": fenced("$states.input"),
                    "Force": True,
                },
                resources=[self._cluster.cluster_arn],
                retries=1,
            )
        )
        return (*super().restore(scope), find, each)

    def permissions(self, *, tasks: str) -> tuple[iam.PolicyStatement, ...]:
        """
        Return the permissions of the states that read tasks; those of other states come with their calls.

        Args:
            tasks: ARN of all tasks of the cluster.
        """
        return (
            # Tasks are listed by their service, and so for no resource (Service Authorization Reference).
            iam.PolicyStatement(
                actions=["ecs:ListTasks"],
                resources=["*"],
                conditions={"ArnEquals": {"ecs:cluster": self._cluster.cluster_arn}},
            ),
            iam.PolicyStatement(actions=["ecs:DescribeTasks"], resources=[tasks]),
        )

    def _read_service(self, scope: Construct) -> sfn.IChainable:
        """
        Build the states that read what ECS says of the service in their input; the output's `words` are its messages.

        No error leaves them: what Auto Scaling said must not be lost with it.
        """
        since = "1000 * $search.since"
        done = sfn.Pass.jsonata(
            scope,
            state_name(scope, "Keep what ECS said"),
            outputs={
                "words": jsonata(
                    "[$map($append($service_events, $states.input.reasons), function($said) { 'ECS: ' & $said })]"
                )
            },
        )
        why = self._read_tasks(
            scope,
            "Read why they stopped",
            "describeTasks",
            parameters={"Tasks": jsonata("$states.input.tasks")},
            outputs={
                "reasons": jsonata(
                    f"""(
  $moment := {MOMENT};
  $failed := $filter($states.result.Tasks, function($task) {{
    $task.StopCode in ['TaskFailedToStart', 'EssentialContainerExited'] and $moment($task.StoppedAt) >= {since}
  }});
  [$failed.StoppedReason, $failed.Containers.Reason]
)"""
                )
            },
        )
        why.add_catch(done).next(done)
        tasks = self._read_tasks(
            scope,
            "List stopped tasks",
            "listTasks",
            parameters={
                "ServiceName": jsonata("$states.input.service"),
                "DesiredStatus": "STOPPED",
                "MaxResults": TASKS_READ,
            },
            outputs={"tasks": jsonata("[$states.result.TaskArns]")},
        )
        tasks.add_catch(done).next(
            sfn.Choice.jsonata(scope, state_name(scope, "Any stopped?"))
            .when(sfn.Condition.jsonata(jsonata("$count($states.input.tasks) > 0")), why)
            .otherwise(done)
        )
        events = call_aws(
            scope,
            "Read the service",
            service="ecs",
            action="describeServices",
            parameters={"Cluster": self._cluster.cluster_name, "Services": [jsonata("$states.input.service")]},
            resources=self._services,
            assign={
                "service_events": jsonata(
                    f"""(
  $moment := {MOMENT};
  [($filter($states.result.Services.Events, function($event) {{
    $contains($event.Message, /unable to|fail/) and $moment($event.CreatedAt) >= {since}
  }}).Message)[[0..{EVENTS_KEPT - 1}]]]
)"""
                ),
            },
            outputs={"service": jsonata("$states.input.service")},
        )
        events.add_catch(done, assign={"service_events": []})
        return events.next(tasks)

    def _read_tasks(
        self, scope: Construct, name: str, action: str, *, parameters: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> sfn.CustomState:
        """Build a state that reads tasks; `call_aws` would add a permission for those of other clusters, too."""
        return call_permitted(
            scope,
            name,
            service="ecs",
            action=action,
            parameters={"Cluster": self._cluster.cluster_name, **parameters},
            outputs=outputs,
        )
