"""
The whole product on this machine, without an AWS account: `make demo`.

Synthesises `app.py`, deploys the unchanged `cdk.out` into the local cloud, trains the handwritten digits on two nodes
with the command that an ML engineer types, and looks at what is left.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from horovod_local import LocalCloud

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = Path("examples/digits")
ASSEMBLY = Path("cdk.out")
RUN = "digits"


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

        say("What is left")
        metrics = read_metrics(cloud, bucket=connection["model_bucket"])
        print(f"  the model's test accuracy  {metrics['accuracy']:.1%}")
        print(f"  instances running          {len(cloud.instances())}")


def say(title: str) -> None:
    """Announce a step."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)


def run(command: list[str], *, environment: dict[str, str] | None = None) -> None:
    """Show a command, run it, and end the demo if it fails."""
    print(f"  $ {shlex.join(command)}", flush=True)
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def read_metrics(cloud: LocalCloud, *, bucket: str) -> dict[str, float]:
    """Read what the script left beside its model."""
    body = cloud.client("s3").get_object(Bucket=bucket, Key=f"runs/{RUN}/model.tar.gz")["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        (name,) = [member for member in archive.getnames() if member.endswith("metrics.json")]
        file = archive.extractfile(name)
        assert file is not None
        metrics: dict[str, float] = json.load(file)
        return metrics


if __name__ == "__main__":
    main()
