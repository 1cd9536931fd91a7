"""The real CDK CLI deploys the app into the local cloud, as `cdk deploy` does into an account."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from horovod_local import LocalCloud
from support.local_cloud.deployment import SETTINGS, Deployment, facts, wait
from support.synthesis import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.local]

# Building the image asset needs a Docker engine; an image that is already in ECR does not.
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"


def test_cli_deploys_and_a_run_trains(tmp_path: Path) -> None:
    """Bootstrap, deploy and one whole run: the templates that the CLI uploads are the ones that work."""
    with LocalCloud(home=tmp_path / "cloud") as cloud:

        def cdk(*arguments: str) -> None:
            done = subprocess.run(
                ["cdk", *arguments, "--output", str(tmp_path / "cdk.out"), "--no-notices"],
                cwd=REPOSITORY,
                env=cloud.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout

        # GIVEN an account that was bootstrapped
        cdk("bootstrap", f"aws://{cloud.account}/{cloud.region}")
        # WHEN the CLI deploys all stacks
        settings = {**SETTINGS, "image": IMAGE}
        context = [word for key, value in settings.items() for word in ("--context", f"horovod:{key}={value}")]
        cdk("deploy", "--all", "--require-approval", "never", *context)
        # THEN a run trains on what was deployed
        app = Deployment(cloud=cloud)
        run = app.start("trains_briefly.py")
        ended = wait(run)
        assert (ended.state, ended.cause) == ("SUCCEEDED", None)
        assert facts(app.model(run))["difference"] == 0.0
        assert app.instances_left() == []
