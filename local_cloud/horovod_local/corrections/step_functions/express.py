"""Express state machines, whose executions cannot be described, listed or stopped."""

from __future__ import annotations

from typing import Any, Final

from horovod_local.corrections.registry import correction

EXPRESS: Final = "EXPRESS"


@correction(
    moto="lets executions of an Express state machine be described, listed and stopped",
    aws="gives them another form of ARN, which those operations refuse",
)
def express_executions_cannot_be_described() -> None:
    from moto.stepfunctions.parser.api import InvalidArn, StateMachineTypeNotSupported
    from moto.stepfunctions.parser.backend.execution import Execution
    from moto.stepfunctions.parser.models import StepFunctionsParserBackend
    from moto.stepfunctions.responses import StepFunctionResponse

    start = Execution.start

    def start_unseen(self: Any) -> None:
        if self.state_machine.type == EXPRESS:
            self.exec_arn = self.execution_arn = self.exec_arn.replace(":execution:", ":express:") + f":{self.name}"
        start(self)

    Execution.start = start_unseen

    start_execution = StepFunctionsParserBackend.start_execution

    def start_and_forget(self: Any, state_machine_arn: str, *args: Any, **kwargs: Any) -> Any:
        execution = start_execution(self, state_machine_arn, *args, **kwargs)
        if execution.state_machine.type == EXPRESS:
            # Removing it also allows another execution of the same name.
            self.describe_state_machine(state_machine_arn).executions.remove(execution)
        return execution

    StepFunctionsParserBackend.start_execution = start_and_forget

    def refusing(act: Any) -> Any:
        def refuse(self: Any) -> Any:
            if ":express:" in (self._get_param("executionArn") or ""):
                raise InvalidArn("Invalid Arn: 'Resource type not valid in this context: express'")
            return act(self)

        return refuse

    for name in ("describe_execution", "stop_execution", "get_execution_history"):
        setattr(StepFunctionResponse, name, refusing(getattr(StepFunctionResponse, name)))

    list_executions = StepFunctionResponse.list_executions

    def list_standard(self: Any) -> Any:
        arn = self._get_param("stateMachineArn")
        if arn and self.stepfunction_backend.describe_state_machine(arn).type == EXPRESS:
            raise StateMachineTypeNotSupported("This operation is not supported by this type of state machine")
        return list_executions(self)

    StepFunctionResponse.list_executions = list_standard


CORRECTIONS = (express_executions_cannot_be_described,)
