"""Synthesises an app as the CDK CLI does: a process of its own, context and output folder by environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def synthesise(
    out: Path, *, app: Path = REPOSITORY, settings: Mapping[str, object] | None = None, check: bool = True
) -> str:
    """
    Write the cloud assembly of an app to *out* and return what the app printed.

    Args:
        out: The assembly's folder.
        app: Folder with `app.py` and `cdk.json`. Default: the repository's.
        settings: Values for `stacks.settings.Settings`, as `cdk -c horovod:KEY=VALUE` would set them.
        check: Whether a failing synth fails the test.
    """
    context = json.loads((app / "cdk.json").read_text())["context"]
    context |= {f"horovod:{key}": value for key, value in (settings or {}).items()}
    without_aws = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=app,
        env={
            **without_aws,
            "CDK_CONTEXT_JSON": json.dumps(context),
            "CDK_OUTDIR": str(out),
            # Instance metadata and account look-ups would be the only reasons to leave this machine.
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"app.py ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def image_hashes(assembly: Path, stack: str) -> set[str]:
    """List the asset hashes of the images that a stack builds."""
    return set(json.loads((assembly / f"{stack}.assets.json").read_text())["dockerImages"])
