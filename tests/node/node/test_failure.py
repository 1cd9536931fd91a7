"""Which failure is the reason, and how it is told."""

from __future__ import annotations

import errno
import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from horovod_node import contract
from horovod_node.node.errors import LedgerUnreachableError, RunError, exit_code
from horovod_node.node.failure import (
    ORIGINS,
    Failure,
    NodeFailedError,
    as_failure,
    as_run_error,
    cause_text,
    root_cause,
    run_error,
)
from horovod_node.node.stall import RankStack


def failure(**fields: object) -> Failure:
    """Make a failure with sane defaults."""
    defaults: dict[str, object] = {
        "error": contract.ERROR_TRAINING_FAILED,
        "origin": "script",
        "summary": "Rank 1 on b (10.0.0.2) ended with exit code 1: ValueError: no",
        "node": "b",
        "at": 100.0,
        "rank": 1,
    }
    return Failure(**{**defaults, **fields})  # type: ignore[arg-type]  # the defaults have the right types


stacks = st.builds(
    RankStack,
    rank=st.integers(0, 63),
    node=st.text(max_size=5),
    address=st.just("10.0.0.1"),
    step=st.integers(0, 10),
    silent_seconds=st.integers(0, 10),
    place=st.text(max_size=5),
    in_script=st.booleans(),
)
failures = st.builds(
    Failure,
    error=st.sampled_from([contract.ERROR_TRAINING_FAILED, contract.ERROR_NODE_FAILED]),
    origin=st.sampled_from(ORIGINS),
    summary=st.text(max_size=20),
    node=st.sampled_from("abcd"),
    at=st.floats(0, 1000),
    rank=st.none() | st.integers(0, 63),
    details=st.text(max_size=20),
    stacks=st.lists(stacks, max_size=2).map(tuple),
)


@given(st.lists(failures, min_size=1, max_size=12), st.randoms())
def test_root_cause_is_never_a_consequence_of_another(seen: list[Failure], order: random.Random) -> None:
    """It is one of those seen, none has a stronger origin, none of its origin is earlier, and no order changes it."""
    # WHEN
    reason = root_cause(seen)
    # THEN
    assert reason in seen
    strength = ORIGINS.index(reason.origin)
    assert all(ORIGINS.index(other.origin) >= strength for other in seen)
    assert all(other.at >= reason.at for other in seen if other.origin == reason.origin)
    shuffled = list(seen)
    order.shuffle(shuffled)
    again = root_cause(shuffled)
    assert (again.origin, again.at, again.rank, again.node) == (reason.origin, reason.at, reason.rank, reason.node)


@given(failures)
def test_failure_survives_the_ledger(seen: Failure) -> None:
    """What one node writes, the leader reads."""
    assert Failure.from_json(seen.to_json()) == seen


def test_scripts_failure_wins_over_what_it_caused() -> None:
    """A rank that lost the ring may say so before the rank that broke it can."""
    # GIVEN
    seen = [
        failure(origin="ring", at=99.0, node="a", rank=0, summary="Rank 0 lost the other ranks"),
        failure(at=100.0, details="Traceback ..."),
        failure(origin="node", at=98.0, rank=None, error=contract.ERROR_NODE_FAILED),
    ]
    # WHEN
    error = run_error(seen)
    # THEN
    assert error.error == contract.ERROR_TRAINING_FAILED
    assert error.message == "Rank 1 on b (10.0.0.2) ended with exit code 1: ValueError: no\n\nTraceback ..."


def test_stalls_of_all_nodes_are_told_together() -> None:
    """The ranks of every node that stands still are listed, the most suspicious first."""
    # GIVEN
    stack = RankStack(
        rank=0,
        node="a",
        address="10.0.0.1",
        step=8,
        silent_seconds=60,
        answered=True,
        place="t.py:9 in f",
        in_script=False,
    )
    mute = replace(stack, rank=2, silent_seconds=62, answered=False, place="")
    outside = replace(stack, rank=3, place="")
    late = replace(stack, rank=1, node="b", address="10.0.0.2", step=7, place="t.py:3 in g", in_script=True)
    seen = [
        failure(error=contract.ERROR_TRAINING_STALLED, origin="stall", stacks=(stack, mute, outside), node="a", at=1.0),
        failure(error=contract.ERROR_TRAINING_STALLED, origin="stall", stacks=(late,), node="b", at=2.0),
        failure(origin="ring", at=0.5),
    ]
    # WHEN
    error = run_error(seen)
    # THEN
    assert error.error == contract.ERROR_TRAINING_STALLED
    assert error.message == (
        "No training step for 62 s; the last was step 8. The ranks, the most suspicious first:\n"
        "rank 2 on a (10.0.0.1), step 8: does not answer, its process is stopped or hangs inside the kernel\n"
        "rank 1 on b (10.0.0.2), step 7: in t.py:3 in g\n"
        "rank 0 on a (10.0.0.1), step 8: inside a call from t.py:9 in f\n"
        "rank 3 on a (10.0.0.1), step 8: outside of the script"
    )


def test_any_exception_becomes_an_error_of_the_contract() -> None:
    """What the agent did not foresee is the node's failure, in one sentence."""
    # GIVEN
    known = RunError(contract.ERROR_MODEL_MISSING, "Nothing.")
    # WHEN
    full = OSError(errno.ENOSPC, "No space left on device", "/opt/ml/code/train.py")
    seen = [known, LedgerUnreachableError("it is away"), full, KeyError("x")]
    errors = [as_run_error(error) for error in seen]
    # THEN
    assert [(error.error, error.message) for error in errors] == [
        (contract.ERROR_MODEL_MISSING, "Nothing."),
        (contract.ERROR_NODE_FAILED, "A node could not reach the ledger: it is away."),
        (
            contract.ERROR_DISK_FULL,
            "A node's disk is full at /opt/ml/code/train.py: No space left on device. Use instance types with more "
            "local storage, or give the fleet a larger volume.",
        ),
        (contract.ERROR_NODE_FAILED, "The node agent failed: KeyError: 'x'"),
    ]


def test_error_of_a_node_names_it() -> None:
    """A failure that no rank had is told with the node that saw it; one that a rank had stays as it is."""
    # GIVEN
    ranks = failure()
    # WHEN
    seen = [
        as_failure(RunError(contract.ERROR_DATA_NOT_FOUND, "It is empty."), node="b", address="10.0.0.2"),
        as_failure(NodeFailedError(ranks), node="b", address="10.0.0.2"),
    ]
    # THEN
    assert [seen[0].error, seen[0].origin, seen[0].summary] == [
        contract.ERROR_DATA_NOT_FOUND,
        "node",
        "It is empty. (seen by node b, 10.0.0.2)",
    ]
    assert seen[1] == ranks


@given(st.text(max_size=40_000))
def test_cause_fits_into_step_functions(text: str) -> None:
    """A long cause loses its middle; a short one nothing."""
    # WHEN
    cause = cause_text(text)
    # THEN
    assert len(cause) <= contract.CAUSE_LIMIT
    assert cause == text or (text.startswith(cause[:16_000]) and text.endswith(cause[-16_000:]))


def test_long_traceback_keeps_both_ends() -> None:
    """The first line says what happened, the last one says why."""
    # WHEN
    cause = cause_text("first line\n" + "x" * 50_000 + "\nValueError: no")
    # THEN
    assert len(cause) <= contract.CAUSE_LIMIT
    assert cause.startswith("first line\nxxx")
    assert cause.endswith("xxx\nValueError: no")
    assert "\n[…]\n" in cause


def test_exit_code_tells_whose_fault_it_was() -> None:
    """Our side, the image and the user's side have an exit code each."""
    assert [
        exit_code(error)
        for error in (
            contract.ERROR_TRAINING_FAILED,
            contract.ERROR_TRAINING_STALLED,
            contract.ERROR_DATA_NOT_FOUND,
            contract.ERROR_MODEL_MISSING,
            contract.ERROR_PREFLIGHT,
            contract.ERROR_NODE_FAILED,
            contract.ERROR_LEADER_LOST,
        )
    ] == [1, 1, 1, 1, 78, 70, 70]
