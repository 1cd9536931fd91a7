"""
Step Functions.

Source: Service Authorization Reference, "Actions, resources, and condition keys for AWS Step Functions". The resource
of SendTask… is the state machine whose task waits for the token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from horovod_local.permissions.requests.service_request import (
    PermissionRule,
    RequiredPermission,
    ServiceRequest,
    without_resource,
)


def _on(parameter: str, action: str) -> PermissionRule:
    return lambda request: (RequiredPermission(action=f"states:{action}", resource=request.parameters[parameter]),)


def _answer(action: str) -> PermissionRule:
    def read(request: ServiceRequest) -> Iterable[RequiredPermission]:
        from moto.stepfunctions.parser.models import stepfunctions_parser_backends

        token = request.parameters["taskToken"]
        for execution in stepfunctions_parser_backends[request.account][request.call.region]._get_executions():
            env = execution.exec_worker.env if execution.exec_worker else None
            if env is not None and env.callback_pool_manager.get(token) is not None:
                yield RequiredPermission(action=f"states:{action}", resource=execution.state_machine.arn)
                return
        # An unknown token belongs to no state machine; the service answers InvalidToken.

    return read


RULES: Final[dict[str, PermissionRule]] = {
    **{
        name: _on("executionArn", name)
        for name in (
            "DescribeExecution",
            "DescribeStateMachineForExecution",
            "GetExecutionHistory",
            "RedriveExecution",
            "StopExecution",
        )
    },
    **{
        name: _on("stateMachineArn", name)
        for name in ("DescribeStateMachine", "ListExecutions", "StartExecution", "StartSyncExecution")
    },
    **{name: _answer(name) for name in ("SendTaskFailure", "SendTaskHeartbeat", "SendTaskSuccess")},
    "ListStateMachines": without_resource("states:ListStateMachines"),
}
