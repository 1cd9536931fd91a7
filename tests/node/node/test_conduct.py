"""What a node does next, by its engine's rules."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horovod_node import contract
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.ledger import Lease
from horovod_node.node.conduct import Conduct, EndsWithItsPart, Part, StaysWithItsJob, Turn, WaitsForAnother, conduct_of
from horovod_node.node.errors import ReleasedError, UsageError
from horovod_node.node.identity import Node
from support.node.emulated_aws import Aws

NOW = Lease(
    fleet="fleet",
    run="run-1",
    run_id="Training/run-1/1",
    attempt=2,
    leader_market=contract.SPOT,
    expires_at=2_000_000_000,
    ends_by=2_000_000_000,
)
LATER = replace(NOW, attempt=3)
OTHER = replace(NOW, run="run-2", run_id="Training/run-2/1", attempt=1)
EXPIRED = replace(NOW, expires_at=1_000)
EMPTIED = replace(NOW, run=contract.CLEAN_UP, run_id="", attempt=0)
FAILED = Part(lease=NOW, code=contract.EXIT_NODE_FAILED, reason="a node failed")
OVER = Part(lease=NOW, code=contract.EXIT_PART_OVER, reason="it is done", is_last=True, succeeded=True)
HELD = {"nobody": None, "the same": NOW, "expired": EXPIRED, "later": LATER, "other": OTHER, "emptied": EMPTIED}


def turns(conduct: Conduct, last: Part | None, *, is_going: bool = False) -> dict[str, str]:
    """Tell what the node does, by who holds the fleet."""
    return {who: conduct.turn(lease, last=last, is_going=is_going).value for who, lease in HELD.items()}


def ecs(folder: Path, *, begun: Lease | None) -> Conduct:
    """Make the rules of an agent on an instance on which another agent may have begun an attempt."""
    if begun is not None:
        WaitsForAnother(folder).begin(begun)
    return WaitsForAnother(folder)


def job(folder: Path) -> StaysWithItsJob:
    """Make the rules of a job that was created for the attempt that holds the fleet."""
    return StaysWithItsJob(run_id=NOW.run_id, attempt=NOW.attempt, ml_root=folder / "ml", opt_ml=folder / "opt-ml")


@pytest.mark.parametrize(
    ("last", "is_going", "expected"),
    [
        (None, False, "leave join join join join join"),
        (FAILED, False, "leave wait leave join leave leave"),
        (FAILED, True, "leave leave leave leave leave leave"),
        (OVER, False, "leave leave leave leave leave leave"),
    ],
    ids=["new", "failed", "interrupted", "done"],
)
def test_on_ec2_a_node_ends_with_its_part(last: Part | None, is_going: bool, expected: str) -> None:
    """It waits only for a run that may restart, as long as that run may decide it."""
    assert turns(EndsWithItsPart(), last, is_going=is_going) == dict(zip(HELD, expected.split(), strict=True))


@pytest.mark.parametrize(
    ("begun", "last", "is_going", "expected"),
    [
        (None, None, False, "wait join join join join wait"),
        (NOW, None, False, "wait wait wait join join wait"),
        (NOW, FAILED, False, "wait wait wait join leave wait"),
        (NOW, OVER, False, "wait wait wait join leave wait"),
        (NOW, FAILED, True, "wait wait wait wait wait wait"),
    ],
    ids=["new", "started again", "failed", "done", "interrupted"],
)
def test_on_ecs_a_node_waits(
    tmp_path: Path, begun: Lease | None, last: Part | None, is_going: bool, expected: str
) -> None:
    """It takes part in no attempt twice, whichever process of the instance it is, and ends only for another run."""
    conduct = ecs(tmp_path, begun=begun)
    assert turns(conduct, last, is_going=is_going) == dict(zip(HELD, expected.split(), strict=True))


def test_file_of_an_instance_that_makes_no_sense_counts_as_none(tmp_path: Path) -> None:
    """The user's script may write there; what it gets is its own run's affair."""
    # GIVEN
    conduct = ecs(tmp_path, begun=NOW)
    (tmp_path / ".begun").write_text("[]")
    # WHEN / THEN
    assert conduct.turn(NOW, last=None, is_going=False) is Turn.JOIN


def test_instance_is_told_of_this_part_and_not_of_one_before(tmp_path: Path) -> None:
    """It terminates itself when it finds the file."""
    # GIVEN
    conduct = ecs(tmp_path, begun=NOW)
    file = tmp_path / contract.PART_OVER_FILE
    seen = []
    # WHEN
    for part in (FAILED, OVER):
        conduct.end(part)
        seen.append(file.exists())
    conduct.begin(LATER)
    # THEN
    assert (seen, file.exists()) == ([False, True], False)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, "leave join leave leave leave leave"),
        (FAILED, "leave wait leave leave leave leave"),
        (OVER, "leave wait leave leave leave leave"),
    ],
    ids=["new", "failed", "done"],
)
def test_on_sagemaker_a_node_stays_with_its_job(tmp_path: Path, last: Part | None, expected: str) -> None:
    """It takes part in the attempt for which the job was created, and leaves with it."""
    assert turns(job(tmp_path), last) == dict(zip(HELD, expected.split(), strict=True))


def test_paths_of_scripts_lead_to_the_ml_root_unless_the_platform_uses_them(tmp_path: Path) -> None:
    """What SageMaker has put there stays, and in the end everything is as SageMaker made it."""
    # GIVEN
    conduct, opt_ml = job(tmp_path), tmp_path / "opt-ml"
    (opt_ml / "model").mkdir(parents=True)
    (opt_ml / "checkpoints").mkdir()
    (opt_ml / "checkpoints" / "restored").touch()
    (opt_ml / "output").mkdir()
    # WHEN
    conduct.begin(NOW)
    for name in ("model", "output/data"):
        (tmp_path / "ml" / name).mkdir(parents=True)
        (opt_ml / name / "file").touch()
    # THEN
    assert not (opt_ml / "checkpoints").is_symlink()
    assert [(tmp_path / "ml" / name / "file").exists() for name in ("model", "output/data")] == [True, True]
    # WHEN
    no_ledger: Any = None
    code = conduct.leave(OVER, ledger=no_ledger)
    # THEN
    assert code == contract.EXIT_OK
    assert sorted(str(path.relative_to(opt_ml)) for path in opt_ml.rglob("*")) == [
        "checkpoints",
        "checkpoints/restored",
        "input",
        "model",
        "output",
    ]


def test_script_that_fails_gives_the_words_that_sagemaker_gets(tmp_path: Path, aws: Aws) -> None:
    """Its words are in the cause, from where the path by heart led; the failure file holds the cause."""
    # GIVEN
    conduct, opt_ml = job(tmp_path), tmp_path / "opt-ml"
    conduct.begin(NOW)
    (tmp_path / "ml" / "output").mkdir(parents=True)
    (opt_ml / "output" / "failure").write_text("the labels are of 2019")
    # WHEN
    part = replace(FAILED, code=contract.EXIT_TRAINING_FAILED, reason="TrainingFailed: Rank 0 left: the labels")
    code = conduct.leave(part, ledger=aws.ledger())
    # THEN
    assert code == contract.EXIT_TRAINING_FAILED
    assert (opt_ml / "output" / "failure").read_text() == "TrainingFailed: Rank 0 left: the labels"
    assert (tmp_path / "ml" / "output" / "failure").read_text() == "the labels are of 2019"


def test_job_without_a_lease_ends_as_an_instance_does(tmp_path: Path, aws: Aws, work: NodeAttempt) -> None:
    """Where there is no dead-man's switch, the agent keeps its rule: one more lease's time, then it goes."""
    # GIVEN
    in_job = replace(work, conduct=job(tmp_path))
    limit = time.time() - work.run.settings.lease_seconds
    aws.put_lease(work.node.fleet, run="run-1", expires_at=int(limit) + 100)
    Membership(in_job).keep()
    # WHEN
    aws.put_lease(work.node.fleet, run="run-1", expires_at=int(limit) - 1)
    # THEN
    with pytest.raises(ReleasedError, match=r"^the lease of fleet fleet expired 6\d+ s ago$"):
        Membership(in_job).keep()


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        (contract.ENGINE_EC2, EndsWithItsPart),
        (contract.ENGINE_LOCAL, EndsWithItsPart),
        (contract.ENGINE_ECS, WaitsForAnother),
        (contract.ENGINE_SAGEMAKER, StaysWithItsJob),
    ],
)
def test_engine_decides(node: Node, engine: str, kind: type[Conduct]) -> None:
    """Each engine has its rules."""
    environment = {contract.ENV_RUN_ID: NOW.run_id, contract.ENV_ATTEMPT: "2"}
    assert type(conduct_of(replace(node, engine=engine), environment)) is kind


@pytest.mark.parametrize("environment", [{contract.ENV_RUN_ID: "a/b/c"}, {contract.ENV_ATTEMPT: "1"}])
def test_fails_when_a_job_does_not_say_for_what_it_was_created(node: Node, environment: dict[str, str]) -> None:
    """Without it, a job's survivor would join whatever comes next."""
    with pytest.raises(UsageError, match=f"^'{contract.ENV_RUN_ID}' and '{contract.ENV_ATTEMPT}' must name"):
        conduct_of(replace(node, engine=contract.ENGINE_SAGEMAKER), environment)
