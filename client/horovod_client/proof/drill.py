"""
The drill, which tests the claims that only an AWS account can prove, step by step, and removes everything afterwards.

Every run is small (two nodes of one GPU) and limited three times: by its own ceiling, by the training's, and by the
limit of the whole drill. Any failure, including Ctrl-C, leads to the same end: the rules are enabled, runs are stopped,
the nodes are ended, and remaining resources are listed.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from horovod_client.aws.refusals import AwsError
from horovod_client.doctor.deep.examine import examine_states
from horovod_client.errors import ConnectionNotFound, ReceiptNotFound
from horovod_client.proof import claims
from horovod_client.proof.inventory import Inventory
from horovod_client.proof.place import STACK, Place, StepFailed
from horovod_client.proof.report import FAILED, PASSED, Report, StepReport, now_text
from horovod_client.run import STOPPED_ERROR, Run
from horovod_client.status.run_status import SUCCEEDED, is_over
from horovod_node import contract

GPUS: Final = 2
RUN_USD: Final = 1.0
"""Cost ceiling of each run: ten times its expected cost."""
HOURS: Final = 2.0
"""Hours of both instances, for five runs, each with some minutes of booting and waiting."""
EXTRAS_USD: Final = 0.5
"""Cost of volumes, the image in ECR, requests, logs and the key for a day, rounded up."""
ACCURACY: Final = 0.85
"""The digits' test accuracy is above 0.95 after 20 epochs; a model that learned nothing has 0.1."""


def estimate_usd(on_demand_usd: float) -> float:
    """
    Estimate the drill's cost in US dollars, with both instances On-Demand.

    Args:
        on_demand_usd: On-Demand price of one instance, in USD an hour.
    """
    return round(GPUS * HOURS * on_demand_usd + EXTRAS_USD, 2)


@dataclass(kw_only=True)
class Drill:
    """
    One drill.

    Args:
        place: Place of the drill.
        examples: Folder with the digits' scripts, `examples/digits` of the repository.
        data: File that `make_data.py` wrote.
        limit_usd: Highest permitted cost of all runs, in US dollars.
        delete_data: Whether to delete buckets and key at the end. Default: they are kept and listed.
        tell: Prints a line. Default: `print`.
    """

    place: Place
    examples: Path
    data: Path
    limit_usd: float
    delete_data: bool = False
    tell: Callable[[str], None] = print
    runs: list[Run] = field(default_factory=list)
    _kept: list[str] = field(default_factory=list)

    def run(self) -> Report:
        """Run every step, terminate everything in any case, and return the report."""
        report = Report(
            place=self.place.name,
            engine=self.place.engine,
            local=self.place.local,
            began_at=now_text(),
            estimate_usd=estimate_usd(self.place.on_demand_usd()),
            limit_usd=self.limit_usd,
            steps=[StepReport(name=name) for name in claims.steps_of(self.place.engine)],
        )
        deployed = False
        try:
            for step in report.steps:
                if step.name == claims.DESTROY:
                    break
                deployed = True  # also when the deployment fails half-way
                self._do(step)
                if step.state == FAILED and step.name == claims.DEPLOY:
                    break
                if step.state == FAILED:
                    report.left += self._empty()
        except KeyboardInterrupt:
            self.tell("interrupted: terminating everything")
        finally:
            # A second Ctrl-C aborts this as well; then only the switches on the instances terminate them.
            if deployed:
                report.left += self._empty()
                self._do(report.steps[-1])
                report.left += [*self._kept, *self.place.tidy(), *self._left()]
        return report

    def _do(self, step: StepReport) -> None:
        self.tell(
            f"{step.name}: {'; '.join(claim.says for claim in claims.claims_of(step.name, engine=self.place.engine))}"
        )
        step.began_at, began = now_text(), time.monotonic()
        step.state = FAILED
        try:
            step.seen = getattr(self, f"_{step.name}")(step)
            step.state = PASSED
        except StepFailed as failure:
            step.said = str(failure)
        except KeyboardInterrupt:
            step.said = "interrupted by a person"
            raise
        except AwsError as error:
            step.said = f"AWS: {error}"
        except Exception as error:  # the drill must reach its end
            step.said = f"{type(error).__name__}: {error}"
        finally:
            step.seconds = time.monotonic() - began
            self.tell(f"  {step.state} after {step.seconds:.0f} s{f': {step.said}' if step.said else ''}")

    @cached_property
    def _training(self) -> Any:
        return self.place.training()

    @cached_property
    def _inventory(self) -> Inventory:
        return Inventory(self.place)

    def _leases(self) -> list[str]:
        return self._inventory.leases(self._training.connection)

    def _deploy(self, _step: StepReport) -> dict[str, Any]:
        self.place.deploy()
        bucket = self._training.connection.data_bucket
        self.place.client("s3").upload_file(str(self.data), bucket, "digits/digits.npz")
        return {"stack": STACK, "resources": self._inventory.resources, "buckets": self._inventory.buckets}

    def _states(self, _step: StepReport) -> dict[str, Any]:
        checks = [
            *examine_states(
                self._training.connection,
                stack=STACK,
                cloudformation=self.place.client("cloudformation"),
                stepfunctions=self.place.client("stepfunctions"),
            )
        ]
        bad = [f"{check.name}: {check.says}" for check in checks if check.state != "ok"]
        if bad:
            raise StepFailed("; ".join(bad[:10]))
        return {"checks": len(checks)}

    def _train(self, _step: StepReport) -> dict[str, Any]:
        run = self._start("train.py", "digits", epochs=self.place.paces.epochs)
        self._ends_well(run)
        receipt = self._receipt(run)
        if (receipt["outcome"], receipt["ranks"]) != ("succeeded", GPUS):
            raise StepFailed(f"the receipt says {receipt['outcome']} on {receipt['ranks']} ranks")
        with tempfile.TemporaryDirectory() as folder:
            model = run.download_model(Path(folder) / "model")
            accuracy = json.loads((model / "metrics.json").read_text(encoding="utf-8"))["accuracy"]
        if accuracy < ACCURACY:
            raise StepFailed(f"the model's test accuracy is {accuracy:.3f}, below {ACCURACY}")
        return {**self._zero_after(run), "accuracy": float(accuracy), "steps": receipt["steps"]}

    def _stop(self, _step: StepReport) -> dict[str, Any]:
        run = self._start_and_train("stopped")
        run.stop()
        seen = self._zero_after(run)
        receipt = self._receipt(run)
        if receipt["error"] != STOPPED_ERROR:
            raise StepFailed(f"the receipt's error is {receipt['error']}")
        return {**seen, "written_by": receipt["written_by"]}

    def _interrupt(self, step: StepReport) -> dict[str, Any]:
        if self.place.local:
            step.emulated = "the interruption, by LocalCloud.interrupt instead of FIS"
        epochs = self.place.paces.elastic_epochs
        run = self._start("train_elastic.py", "interrupted", epochs=epochs, min_gpus=1)
        self._trains(run)
        spot = self._inventory.spot_instances()
        if not spot:
            raise StepFailed("no instance of the run is a Spot Instance: EC2 had no capacity, try another zone or time")
        told = self.place.interrupt(spot[0])
        self._ends_well(run)
        receipt = self._receipt(run)
        ring = receipt["ring"]
        if not ring["interruptions"] or ring["resets"] < 1:
            raise StepFailed(f"the receipt records no interruption: {ring}")
        return {**self._zero_after(run), **told, "instance": spot[0], "resets": ring["resets"]}

    def _reaper(self, _step: StepReport) -> dict[str, Any]:
        paces = self.place.paces
        run = self._start_and_train("reaped")
        with self._switched_off(reaper=False):
            run.stop()
            seen = self._zero_after(run, seconds=3 * paces.reaper)
            self._until(
                lambda: not self._leases(),
                "the lease is free",
                seconds=2 * paces.reaper,
            )
        if seen["zero_after_s"] >= paces.lease:
            raise StepFailed(f"the nodes were gone after {seen['zero_after_s']} s, when their switches act too")
        return {**seen, "receipt": self._receipt(run)["written_by"]}

    def _switch(self, _step: StepReport) -> dict[str, Any]:
        paces = self.place.paces
        run = self._start_and_train("abandoned")
        with self._switched_off(reaper=True):
            time.sleep(paces.settle)
            run.stop()
            seen = self._zero_after(run, seconds=3 * paces.lease)
        if seen["zero_after_s"] < paces.lease:
            raise StepFailed(f"the nodes were gone after {seen['zero_after_s']} s, before their switches may act")
        self._until(
            lambda: not self._leases(),
            "the reaper frees the lease",
            seconds=3 * paces.reaper,
        )
        return seen

    def _zero(self, _step: StepReport) -> dict[str, Any]:
        living, leases = self._inventory.nodes(), self._leases()
        if living or leases:
            raise StepFailed(f"nodes {living}, leases {leases}")
        return {"nodes": 0, "desired": self._inventory.desired()}

    def _cost(self, _step: StepReport) -> dict[str, Any]:
        costs = {run.name: self._cost_of(run) for run in self.runs}
        unknown = [name for name, usd in costs.items() if usd is None]
        total = sum(usd for usd in costs.values() if usd is not None)
        if unknown:
            raise StepFailed(f"no price in the receipts of {', '.join(unknown)}")
        if total > self.limit_usd:
            raise StepFailed(f"the runs cost {total:.4f} USD, more than {self.limit_usd}")
        return {"total_usd": total, **{f"{name}_usd": usd for name, usd in costs.items()}}

    def _destroy(self, step: StepReport) -> dict[str, Any]:
        if self.place.local:
            step.emulated = "the deletion, by CloudFormation's DeleteStack without the CDK CLI"
        try:
            kept = self._inventory.kept()
        except (StepFailed, *AwsError):  # there is no stack
            kept = []
        self.place.destroy()
        if self.delete_data:
            return {"deleted": self._inventory.delete(kept)}
        self._kept = [f"{kind} {name}: kept, delete it when you no longer need it" for kind, name in kept]
        return {"kept": [name for _, name in kept]}

    def _start(self, script: str, name: str, *, epochs: int, min_gpus: int | None = None) -> Run:
        connection = self._training.connection
        run: Run = self._training.fit(
            self.examples / script,
            gpus=GPUS,
            min_gpus=min_gpus,
            data={"train": f"s3://{connection.data_bucket}/digits/"},
            hyperparameters={"epochs": epochs},
            max_cost_usd=RUN_USD,
            name=f"{name}-{int(time.time())}",
        )
        self.runs.append(run)
        self.tell(f"  run {run.name}")
        return run

    def _start_and_train(self, name: str) -> Run:
        run = self._start("train.py", name, epochs=self.place.paces.long_epochs)
        self._trains(run)
        return run

    def _trains(self, run: Run) -> None:
        def trains() -> bool:
            status = run.status()
            if is_over(status.state):
                raise StepFailed(f"run {run.name} ended as {status.state}: {status.error}: {status.cause}")
            return status.stage == contract.STAGE_TRAINING and status.progress is not None

        self._until(trains, f"run {run.name} trains", seconds=self.place.paces.start)

    def _ends_well(self, run: Run) -> None:
        self._until(lambda: is_over(run.status().state), f"run {run.name} ends", seconds=2 * self.place.paces.start)
        status = run.status()
        if status.state != SUCCEEDED:
            raise StepFailed(f"run {run.name} ended as {status.state}: {status.error}: {status.cause}")

    def _zero_after(self, run: Run, *, seconds: float = 0.0) -> dict[str, Any]:
        """Wait until there is no node, and return how long that took."""
        began = time.monotonic()
        self._until(lambda: not self._inventory.nodes(), f"the nodes of {run.name} are gone", seconds=seconds)
        return {"run": run.name, "zero_after_s": round(time.monotonic() - began, 1)}

    def _receipt(self, run: Run) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def look() -> bool:
            try:
                found.append(run.receipt())
            except ReceiptNotFound:
                return False
            return True

        self._until(look, f"{run.name} has a receipt", seconds=3 * self.place.paces.reaper)
        return found[-1]

    def _cost_of(self, run: Run) -> float | None:
        spend = run.cost()
        return None if spend is None else spend.usd

    def _until(self, look: Callable[[], bool], what: str, *, seconds: float) -> None:
        end = time.monotonic() + seconds + self.place.paces.patience
        while not look():
            if time.monotonic() > end:
                raise StepFailed(f"waited {seconds + self.place.paces.patience:.0f} s in vain until {what}")
            time.sleep(self.place.paces.look)

    @contextmanager
    def _switched_off(self, *, reaper: bool) -> Iterator[None]:
        """Disable the clean-up's rule, and with *reaper* also the reaper's; enable them again at the end."""
        rules = self._inventory.rules
        off = [rules[claims.STOP], *([rules[claims.REAPER]] if reaper else [])]
        events = self.place.client("events")
        try:
            for name in off:
                events.disable_rule(Name=name)
            yield
        finally:
            for name in off:
                events.enable_rule(Name=name)

    def _empty(self) -> list[str]:
        """Enable the rules, stop the runs, end the nodes; return a line for each problem."""
        problems = []
        try:
            events, stepfunctions = self.place.client("events"), self.place.client("stepfunctions")
            for name in self._inventory.rules.values():
                events.enable_rule(Name=name)
            for run in self.runs:
                if not is_over(run.status().state):
                    stepfunctions.stop_execution(
                        executionArn=run.execution_arn, error=STOPPED_ERROR, cause="the drill ends"
                    )
            self._inventory.set_to_zero()
            self._until(lambda: not self._inventory.nodes(), "no node is left", seconds=0)
        except Exception as error:  # no error may keep the drill from its last step
            problems.append(
                f"could not end the nodes ({error}): check that no instance or training job of {STACK} runs"
            )
        return problems

    def _left(self) -> list[str]:
        try:
            living = self._inventory.nodes()
        except (StepFailed, ConnectionNotFound, *AwsError):  # the stack was never deployed, so there are no nodes
            return []
        return [f"{name} still runs: end it" for name in living]
