"""What importing the package loads: a notebook waits for every import."""

from __future__ import annotations

import subprocess
import sys


def test_loads_neither_boto3_nor_the_cdk() -> None:
    """Importing the package loads no AWS library; boto3 comes with the first call, aws_cdk never."""
    # GIVEN
    program = "import sys, horovod_client; print(*sorted({name.partition('.')[0] for name in sys.modules}))"

    # WHEN
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    # THEN
    assert {"aws_cdk", "boto3", "botocore", "click", "jsii", "constructs", "rich"}.isdisjoint(loaded)
    assert "horovod_client" in loaded
