"""The drill's claims, its report, its prices, and what it does when something goes wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from horovod_client.proof.claims import CLAIMS, ENGINES, STEPS, steps_of
from horovod_client.proof.drill import Drill, estimate_usd
from horovod_client.proof.place import Paces, StepFailed
from horovod_client.proof.report import FAILED, NOT_RUN, PASSED, Report, StepReport
from support.synthesis import REPOSITORY


def report(*, local: bool = False, engine: str = "ec2", **states: str) -> Report:
    """A report whose steps passed, but for *states*."""
    steps = [
        StepReport(name=name, state=states.get(name, PASSED), began_at="2026-03-01T12:00:00Z")
        for name in steps_of(engine)
    ]
    return Report(
        place="account 123456789012, eu-west-1",
        engine=engine,
        local=local,
        began_at="2026-03-01T12:00:00Z",
        estimate_usd=2.6,
        limit_usd=5,
        steps=steps,
    )


def test_every_claim_has_a_step_or_a_reason_and_every_step_a_claim() -> None:
    """Every claim has a step or the reason why it has none, and every step serves a claim."""
    # THEN
    assert [claim.id for claim in CLAIMS if (claim.step is None) == (not claim.because)] == []
    assert {claim.step for claim in CLAIMS} - {None} == set(STEPS)
    assert all(callable(getattr(Drill, f"_{name}")) for name in STEPS)
    assert (steps_of("ec2"), steps_of("ecs")) == (STEPS, STEPS)
    # Nobody can ask SageMaker for an interruption.
    assert set(STEPS) - set(steps_of("sagemaker")) == {"interrupt"}


def test_the_guide_lists_every_claim() -> None:
    """The guide lists every claim with the step that proves it, or says that none does."""
    # WHEN
    guide = (REPOSITORY / "docs" / "prove.md").read_text(encoding="utf-8")
    # THEN
    for claim in CLAIMS:
        proof = f"`{claim.step}`" if claim.step else f"not covered by this drill, because {claim.because}"
        engines = "all" if claim.engines == ENGINES else ", ".join(f"`{engine}`" for engine in claim.engines)
        assert f"| {claim.says} | {proof} | {engines} |" in guide
    for name in STEPS:
        assert f"| `{name}` |" in guide


def test_the_report_says_of_each_claim_what_its_step_showed(tmp_path: Path) -> None:
    """A failed step proves nothing; one that was not begun says so; the rest is not covered."""
    # GIVEN
    found = report(stop=FAILED, reaper=NOT_RUN)
    found.steps[3].said = "waited 300 s in vain until the nodes | are gone"
    # WHEN
    markdown, document = found.write(tmp_path)
    # THEN
    states = {claim["id"]: claim["state"] for claim in json.loads(document.read_text())["claims"]}
    assert (states["model"], states["clean-up"], states["reaper"]) == ("proven", "failed", "not run")
    assert states["efa"] == "not covered by this drill, because types with EFA cost more"
    text = markdown.read_text(encoding="utf-8")
    assert "**Not every step passed.**" in text
    assert "the nodes \\| are gone" in text
    assert markdown.name == "prove-20260301T120000Z.md"


def test_the_local_cloud_proves_nothing_of_aws() -> None:
    """In the local cloud, a claim about AWS is marked as emulated, and one about our own programs is not."""
    # WHEN
    states = {claim["id"]: claim["state"] for claim in report(local=True).to_json()["claims"]}
    # THEN
    assert (states["permissions"], states["spot"], states["model"]) == ("emulated", "emulated", "proven")


def test_a_report_is_of_one_engine() -> None:
    """A report has the claims about its engine, and none about the others."""
    # WHEN
    found = {
        engine: {claim["id"]: claim["state"] for claim in report(engine=engine).to_json()["claims"]}
        for engine in ENGINES
    }
    # THEN
    assert found["ecs"].keys() - found["ec2"].keys() == {"placement"}
    assert found["sagemaker"].keys() - found["ec2"].keys() == {"jobs", "spot-jobs", "encryption"}
    assert found["ec2"].keys() - found["sagemaker"].keys() == {"boot", "spot", "efa", "reservations"}
    assert found["sagemaker"]["jobs"] == "proven"


def test_the_estimate_is_below_the_limit_with_the_default_type() -> None:
    """A g4dn.xlarge is 0.526 USD an hour in us-east-1 and 0.83 in the dearest Region: both stay below 5 USD."""
    # THEN
    assert estimate_usd(0.526) == pytest.approx(2.60)
    assert estimate_usd(0.83) < 5


@dataclass
class Nowhere:
    """A place in which nothing can be deployed."""

    problem: BaseException
    name: str = "nowhere"
    engine: str = "ec2"
    local: bool = False
    paces: Paces = field(default_factory=Paces)
    destroyed: int = 0

    def on_demand_usd(self) -> float:
        return 0.5

    def deploy(self) -> None:
        raise self.problem

    def destroy(self) -> None:
        self.destroyed += 1

    def client(self, service: str) -> Any:
        raise StepFailed(f"no {service} here")

    def training(self) -> Any:
        raise StepFailed("no training here")

    def interrupt(self, instance: str) -> dict[str, str]:
        raise StepFailed(f"no {instance} here")

    def tidy(self) -> list[str]:
        return ["role R: delete it"]


@pytest.mark.parametrize("problem", [StepFailed("cdk deploy: quota"), KeyboardInterrupt()])
def test_what_goes_wrong_ends_in_destroying(problem: BaseException, tmp_path: Path) -> None:
    """A failed deployment and Ctrl-C lead to the same end: destroy, and name what is left."""
    # GIVEN
    place = Nowhere(problem)
    drill = Drill(place=place, examples=tmp_path, data=tmp_path, limit_usd=5, tell=lambda _line: None)
    # WHEN
    found = drill.run()
    # THEN
    assert place.destroyed == 1
    assert not found.passed
    assert found.steps[0].state == FAILED
    assert found.steps[1].state == NOT_RUN
    assert "role R: delete it" in found.left
