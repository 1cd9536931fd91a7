"""Task tokens: kept alive, answered once, given up when nobody waits."""

from __future__ import annotations

from dataclasses import replace
from threading import Timer

import pytest

from horovod_node import contract
from horovod_node.attempt import task as task_module
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.attempt.task import Task
from horovod_node.node.errors import ReleasedError
from support.node.emulated_aws import Aws, TaskAnswers, id_of
from support.waiting import eventually


@pytest.fixture
def task(work: NodeAttempt) -> Task:
    """What a leader holds before the state machine asked."""
    return Task(work, Membership(work), name=contract.TASK_TRAIN)


def ask(aws: Aws) -> None:
    aws.put(contract.task_key("fleet", id_of("run-1"), 1, contract.TASK_TRAIN), **{contract.TOKEN: "a-token"})


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
def test_token_that_is_over_is_used_once(
    aws: Aws, work: NodeAttempt, task: Task, answers: TaskAnswers, how: str
) -> None:
    """The state machine may ask again; until then nobody is told, and the end comes with the lease."""
    # GIVEN a leader whose attempt the state machine gives up
    ask(aws)
    answers.gone.add("a-token")
    give_up = Timer(1.0, lambda: aws.delete(contract.lease_key(work.node.fleet)))
    give_up.start()
    # WHEN
    if how == "heartbeat":
        for _ in range(10):
            task.heartbeat()
    else:
        with pytest.raises(ReleasedError, match="nobody holds fleet fleet any more"):
            task.succeed({}) if how == "succeed" else task.fail(contract.ERROR_NODE_FAILED, "no")
    give_up.join()
    # THEN
    assert len(answers.calls) == 1


def test_waiting_for_the_question_ends_with_the_lease(aws: Aws, work: NodeAttempt, task: Task) -> None:
    """A leader that has an answer and is never asked leaves when the fleet is given back."""
    # GIVEN
    aws.delete(contract.lease_key(work.node.fleet))
    # WHEN / THEN
    with pytest.raises(ReleasedError, match="nobody holds fleet fleet any more"):
        task.succeed({})


@pytest.fixture
def ring_task(work: NodeAttempt) -> Task:
    """What a leader holds before the state machine asks for the ring, which it does in each try for capacity."""
    beating = replace(work, run=replace(work.run, settings=replace(work.run.settings, heartbeat_seconds=1)))
    return Task(beating, Membership(work), name=contract.TASK_RING)


def ask_for_ring(aws: Aws, token: str) -> None:
    aws.put(contract.task_key("fleet", id_of("run-1"), 1, contract.TASK_RING), **{contract.TOKEN: token})


def test_question_that_is_asked_again_is_answered_then(aws: Aws, ring_task: Task, answers: TaskAnswers) -> None:
    """A token that is over is not the end: the answer goes to the one that replaces it, and to nobody meanwhile."""
    # GIVEN
    ask_for_ring(aws, "first")
    answers.gone.add("first")
    ask_again = Timer(1.0, lambda: ask_for_ring(aws, "second"))
    ask_again.start()
    # WHEN
    ring_task.succeed({"gpus": 2})
    ask_again.join()
    # THEN
    assert [(action, body["taskToken"]) for action, body, _ in answers.calls] == [
        ("SendTaskSuccess", "first"),
        ("SendTaskSuccess", "second"),
    ]


def test_heartbeats_go_on_with_the_next_question(aws: Aws, ring_task: Task, answers: TaskAnswers) -> None:
    """A leader that still waits for nodes stays when the next try begins, and tells the new question of itself."""
    # GIVEN
    ask_for_ring(aws, "first")
    answers.gone.add("first")

    def told() -> list[str]:
        ring_task.heartbeat()
        return [body["taskToken"] for _, body, _ in answers.calls]

    assert eventually(told) == ["first"]
    # WHEN
    ask_for_ring(aws, "second")
    # THEN
    assert eventually(told, lambda tokens: "second" in tokens) == ["first", "second"]


def test_failure_is_answered_when_it_is_asked_again(aws: Aws, ring_task: Task, answers: TaskAnswers) -> None:
    """A leader whose answer comes between two questions waits for the second."""
    # GIVEN
    ask_for_ring(aws, "first")
    answers.gone.add("first")
    ask_again = Timer(1.0, lambda: ask_for_ring(aws, "second"))
    ask_again.start()
    # WHEN
    ring_task.fail(contract.ERROR_PREFLIGHT, "no")
    ask_again.join()
    # THEN
    assert answers.answer("second") == {"taskToken": "second", "error": contract.ERROR_PREFLIGHT, "cause": "no"}


def test_waiting_for_the_next_question_ends_with_the_lease(aws: Aws, work: NodeAttempt, ring_task: Task) -> None:
    """When no other try comes, the fleet is given back."""
    # GIVEN
    aws.delete(contract.lease_key(work.node.fleet))
    # WHEN / THEN
    with pytest.raises(ReleasedError, match="nobody holds fleet fleet any more"):
        ring_task.succeed({})


def test_time_between_questions_is_not_taken_from_the_answers_patience(
    aws: Aws, ring_task: Task, answers: TaskAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that was held back for long, and then fails once, is still tried again."""
    # GIVEN
    monkeypatch.setattr(task_module, "ANSWER_PATIENCE_SECONDS", 3.0)
    ask_for_ring(aws, "first")
    answers.gone.add("first")
    ask_again = Timer(4.0, lambda: (answers.busy.add("second"), ask_for_ring(aws, "second")))
    ask_again.start()
    # WHEN
    ring_task.succeed({})
    ask_again.join()
    # THEN
    assert [body["taskToken"] for _, body, _ in answers.calls] == ["first", "second", "second"]


@pytest.mark.parametrize("name", [contract.TASK_RING, contract.TASK_TRAIN, contract.TASK_SAVE])
def test_leader_of_a_former_attempt_answers_nothing_of_the_next(
    aws: Aws, work: NodeAttempt, answers: TaskAnswers, name: contract.Task
) -> None:
    """Each attempt has questions of its own, which no leader of another ever sees."""
    # GIVEN
    task = Task(work, Membership(work), name=name)
    # WHEN the run begins anew
    aws.put_lease(work.node.fleet, run="run-1", attempt=2)
    aws.put(contract.task_key("fleet", id_of("run-1"), 2, name), **{contract.TOKEN: "of attempt 2"})
    # THEN
    task.heartbeat()
    with pytest.raises(ReleasedError, match="is held by attempt 2 of run run-1, not by attempt 1 of run run-1"):
        task.succeed({})
    with pytest.raises(ReleasedError):
        task.fail(contract.ERROR_NODE_FAILED, "no")
    assert answers.calls == []
