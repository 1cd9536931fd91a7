"""Task tokens: kept alive, answered once, given up when nobody waits."""

from __future__ import annotations

import pytest

from horovod_node import contract
from horovod_node.errors import ReleasedError
from horovod_node.membership import Membership
from horovod_node.task import Task
from horovod_node.work import Work
from node.emulated import Aws, TaskAnswers


@pytest.fixture
def task(work: Work) -> Task:
    """What a leader holds before the state machine asked."""
    return Task(work, Membership(work), name=contract.TASK_TRAIN)


def ask(aws: Aws) -> None:
    aws.put(contract.task_key("run-1", 1, contract.TASK_TRAIN), **{contract.TOKEN: "a-token"})


def test_nothing_is_told_before_it_is_asked(task: Task, answers: TaskAnswers) -> None:
    """Without a token there is nobody to tell."""
    # WHEN
    task.heartbeat()
    # THEN
    assert answers.calls == []


def test_heartbeats_are_not_more_than_needed(aws: Aws, task: Task, answers: TaskAnswers) -> None:
    """However often the loop turns, one heartbeat in a quarter of the limit is enough."""
    # GIVEN
    ask(aws)
    # WHEN
    for _ in range(20):
        task.heartbeat()
    # THEN
    assert [(action, body) for action, body, _ in answers.calls] == [("SendTaskHeartbeat", {"taskToken": "a-token"})]


def test_success_is_the_output(aws: Aws, task: Task, answers: TaskAnswers) -> None:
    """The output is a JSON object."""
    # GIVEN
    ask(aws)
    # WHEN
    task.succeed({"ranks": 2})
    # THEN
    assert [(action, body) for action, body, _ in answers.calls] == [
        ("SendTaskSuccess", {"taskToken": "a-token", "output": '{"ranks": 2}'})
    ]


def test_failure_is_cut_to_what_step_functions_takes(aws: Aws, task: Task, answers: TaskAnswers) -> None:
    """A long traceback must not make the answer itself fail."""
    # GIVEN
    ask(aws)
    # WHEN
    task.fail(contract.ERROR_TRAINING_FAILED, "x" * 100_000)
    # THEN
    ((action, body, _),) = answers.calls
    assert action == "SendTaskFailure"
    assert body["error"] == contract.ERROR_TRAINING_FAILED
    assert len(body["cause"]) <= contract.CAUSE_LIMIT


@pytest.mark.parametrize("how", ["heartbeat", "succeed", "fail"])
def test_leader_is_released_when_the_task_is_over(aws: Aws, task: Task, answers: TaskAnswers, how: str) -> None:
    """A token that the state machine gave up is not tried again."""
    # GIVEN
    ask(aws)
    answers.gone.add("a-token")
    tell = {
        "heartbeat": task.heartbeat,
        "succeed": lambda: task.succeed({}),
        "fail": lambda: task.fail(contract.ERROR_NODE_FAILED, "no"),
    }
    # WHEN / THEN
    with pytest.raises(ReleasedError, match="the state machine no longer waits for 'train'"):
        tell[how]()
    assert len(answers.calls) == 1


def test_waiting_for_the_question_ends_with_the_lease(aws: Aws, work: Work, task: Task) -> None:
    """A leader that has an answer and is never asked leaves when the fleet is given back."""
    # GIVEN
    aws.delete(contract.lease_key(work.node.fleet))
    # WHEN / THEN
    with pytest.raises(ReleasedError, match="nobody holds fleet fleet any more"):
        task.succeed({})
