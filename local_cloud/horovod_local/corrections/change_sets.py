"""Change sets, with which the CDK CLI deploys."""

from __future__ import annotations

from typing import Any

from horovod_local.corrections.registry import correction


@correction(
    moto="gives a stack made by a change set no outputs, and does not publish its exports to other stacks",
    aws="does both",
)
def change_sets_give_outputs_and_exports() -> None:
    from moto.cloudformation.models import CloudFormationBackend

    execute_change_set = CloudFormationBackend.execute_change_set

    def execute(self: Any, change_set_name: str, stack_name: str | None = None) -> None:
        change_set = _find(self, change_set_name)
        if change_set is not None:
            change_set.stack.resource_map.cross_stack_resources = self.exports
        execute_change_set(self, change_set_name, stack_name)
        if change_set is not None:
            stack = self.stacks[change_set.stack_id]
            stack._parse_template()
            stack.output_map = stack._create_output_map()
            for export in stack.exports:
                self.exports[export.name] = export

    CloudFormationBackend.execute_change_set = execute


@correction(
    moto="answers the deletion of a missing change set with 500",
    aws="answers with success",
)
def deleting_a_missing_change_set_is_fine() -> None:
    from moto.cloudformation.models import CloudFormationBackend

    delete_change_set = CloudFormationBackend.delete_change_set

    def delete(self: Any, change_set_name: str) -> None:
        if _find(self, change_set_name) is not None:
            delete_change_set(self, change_set_name)

    CloudFormationBackend.delete_change_set = delete


@correction(
    moto="answers a missing change set with ValidationError",
    aws="answers ChangeSetNotFound, which the CDK CLI waits for",
)
def missing_change_sets_are_named_so() -> None:
    from moto.cloudformation.models import CloudFormationBackend
    from moto.core.exceptions import ServiceException

    class ChangeSetNotFound(ServiceException):  # type: ignore[misc]  # moto is untyped
        code = "ChangeSetNotFound"

    describe_change_set = CloudFormationBackend.describe_change_set

    def describe(self: Any, change_set_name: str) -> Any:
        if _find(self, change_set_name) is None:
            raise ChangeSetNotFound(f"ChangeSet [{change_set_name}] does not exist")
        return describe_change_set(self, change_set_name)

    CloudFormationBackend.describe_change_set = describe


def _find(backend: Any, name_or_id: str) -> Any:
    if name_or_id in backend.change_sets:
        return backend.change_sets[name_or_id]
    # The newest of that name, which moto describes and executes, too.
    return next((item for item in reversed(backend.change_sets.values()) if item.change_set_name == name_or_id), None)


CORRECTIONS = (
    change_sets_give_outputs_and_exports,
    deleting_a_missing_change_set_is_fine,
    missing_change_sets_are_named_so,
)
