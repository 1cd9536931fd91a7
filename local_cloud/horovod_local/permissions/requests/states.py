"""
Step Functions.

Source: Service Authorization Reference, "Actions, resources, and condition keys for AWS Step Functions": SendTask… are
on the state machine whose task waits for the token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from horovod_local.permissions.requests.asked import Asked, Check, Reader, on_nothing


def _on(parameter: str, action: str) -> Reader:
    return lambda asked: (Check(action=f"states:{action}", resource=asked.parameters[parameter]),)


def _answer(action: str) -> Reader:
    def read(asked: Asked) -> Iterable[Check]:
        from moto.stepfunctions.parser.models import stepfunctions_parser_backends

        token = asked.parameters["taskToken"]
        for execution in stepfunctions_parser_backends[asked.account][asked.call.region]._get_executions():
            env = execution.exec_worker.env if execution.exec_worker else None
            if env is not None and env.callback_pool_manager.get(token) is not None:
                yield Check(action=f"states:{action}", resource=execution.state_machine.arn)
                return
        # A token that nobody gave out belongs to no state machine: the service says InvalidToken.

    return read


READERS: Final[dict[str, Reader]] = {
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
    "ListStateMachines": on_nothing("states:ListStateMachines"),
}
