"""
The whole product on this machine, without an AWS account: `make demo`.

Synthesises `app.py`, deploys the unchanged `cdk.out` into the local cloud, trains the handwritten digits on two nodes
with the command that an ML engineer types, kills a Spot instance of a second run, stops a third run during its
training, and checks what is left.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from horovod_client import ReceiptNotFound, Run
from horovod_local import LocalCloud
from horovod_node import contract

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = Path("examples/digits")
ASSEMBLY = Path("cdk.out")
RUN = "digits"
PATIENCE_SECONDS = 120
LOST_AT_STEP = 60


def main() -> None:
    """Run the demo; exit with the code of the step that failed."""
    say("Synthesise app.py, with every AwsSolutions check of cdk-nag")
    run(["cdk", "synth", "--quiet", "--output", str(ASSEMBLY)])
    with LocalCloud() as cloud, tempfile.TemporaryDirectory() as folder:
        say("Deploy cdk.out, unchanged, into the local cloud")
        outputs = cloud.deploy(REPOSITORY / ASSEMBLY, tell=lambda line: print(f"  {line}"))
        print(f"  deployed: {', '.join(outputs)}; instances running: {len(cloud.instances())}")

        say("Put real data into the data bucket: scikit-learn's handwritten digits")
        run([sys.executable, str(DIGITS / "make_data.py"), folder])
        (connection,) = (json.loads(value) for value in outputs["Training"].values() if value.startswith("{"))
        data = f"s3://{connection['data_bucket']}/digits/"
        cloud.client("s3").upload_file(f"{folder}/digits.npz", connection["data_bucket"], "digits/digits.npz")
        print(f"  {data}digits.npz")

        say("Train on 2 GPUs: two instances start, two real Horovod ranks train, everything ends")
        command = ["cdk-horovod", "train", str(DIGITS / "train.py"), "--gpus", "2", "--data", f"train={data}"]
        command += ["--hyperparameters", '{"epochs": 8}', "--name", RUN, "--stack", "Training"]
        run([*command, "--poll-seconds", "0.5"], environment=cloud.environment())
        print()
        for verb in (["logs", RUN], ["cost", RUN]):
            run(["cdk-horovod", *verb, "--stack", "Training"], environment=cloud.environment())

        say("Train on up to 3 GPUs, and kill a Spot instance during the training: the ring continues without it")
        lose_a_node(cloud, data=data)

        say("Stop another run during its training: its nodes are terminated, and its receipt says why")
        stop_in_the_middle(cloud, data=data)

        say("What is left")
        run(["cdk-horovod", "ls", "--stack", "Training"], environment=cloud.environment())
        metrics = read_metrics(cloud, bucket=connection["model_bucket"])
        print(f"  the model's test accuracy  {metrics['accuracy']:.1%}")
        print(f"  instances running          {len(cloud.instances())}")


def lose_a_node(cloud: LocalCloud, *, data: str) -> None:
    """Start an elastic run, kill one of its Spot instances during the training, and show the outcome."""
    run = cloud.training().fit(
        DIGITS / "train_elastic.py",
        gpus=3,
        min_gpus=1,
        data={"train": data},
        hyperparameters={"epochs": 60},
        name="survivor",
    )
    wait_until(lambda: steps_of(run) > LOST_AT_STEP)
    spot = next(instance for instance in cloud.instances() if instance.market == contract.SPOT)
    cloud.lose(spot.instance_id)
    print(f"  {spot.instance_id} is gone after step {steps_of(run)}", flush=True)
    run.wait(poll_seconds=0.5)
    ring = run.receipt()["ring"]
    sizes = f"{ring['smallest']} to {ring['largest']} GPUs"
    print(f"  the run succeeded on a ring of {sizes}; ring resets: {ring['resets']}")
    print(f"  repeated training steps: {ring['repeated_steps']}")


def steps_of(run: Run) -> int:
    """Return the number of steps that the leader has reported."""
    progress = run.status().progress
    return progress.step if progress else 0


def stop_in_the_middle(cloud: LocalCloud, *, data: str) -> None:
    """Start a long run, stop it as a user does, and wait until none of its instances is left."""
    stopped = cloud.training().fit(
        DIGITS / "train.py", gpus=2, data={"train": data}, hyperparameters={"epochs": 1000}, name="stopped"
    )
    wait_until(lambda: stopped.status().stage == contract.STAGE_TRAINING)
    print(f"  training on {len(cloud.instances())} instances")
    run(["cdk-horovod", "stop", stopped.name, "--stack", "Training"], environment=cloud.environment())
    began = time.monotonic()
    wait_until(lambda: not cloud.instances())
    print(f"  instances running: 0, after {time.monotonic() - began:.1f} s")
    wait_until(lambda: has_receipt(stopped))
    run(["cdk-horovod", "receipt", stopped.name, "--stack", "Training"], environment=cloud.environment())


def has_receipt(run: Run) -> bool:
    """Return whether the receipt of *run* is written."""
    try:
        run.receipt()
    except ReceiptNotFound:
        return False
    return True


def wait_until(come: Callable[[], bool]) -> None:
    """Wait until *come* returns true, and end the demo if it never does."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not come():
        if time.monotonic() > give_up_at:
            sys.exit(f"the demo waited {PATIENCE_SECONDS} s in vain")
        time.sleep(0.2)


def say(title: str) -> None:
    """Print the title of a step."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)


def run(command: list[str], *, environment: dict[str, str] | None = None) -> None:
    """Show a command, run it, and end the demo if it fails."""
    print(f"  $ {shlex.join(command)}", flush=True)
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def read_metrics(cloud: LocalCloud, *, bucket: str) -> dict[str, float]:
    """Read the metrics that the script wrote beside its model."""
    key = contract.model_key(Run.from_id(RUN, client=cloud.training()).run_id)
    body = cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        (name,) = [member for member in archive.getnames() if member.endswith("metrics.json")]
        file = archive.extractfile(name)
        assert file is not None
        metrics: dict[str, float] = json.load(file)
        return metrics


if __name__ == "__main__":
    main()
