"""
Stands where the local cloud expects Python: `PYTHON -m horovod_node` becomes the image's entry point in the image.

The instance's own folder becomes /opt/ml, as user data arranges it on EC2. Run as
`python -m support.image.node_in_image FACTS`, with the image's root and configuration in the JSON file FACTS.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from horovod_node import contract
from support.image.buildah import BuiltImage


def main(facts: Path) -> None:
    """Become the node."""
    told = json.loads(facts.read_text())
    image = BuiltImage(root=Path(told["root"]), config=told["config"], bytes=told["bytes"])
    environment = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "CDK_HOROVOD_"))}
    ml_root = Path(environment.pop(contract.ENV_ML_ROOT, contract.DEFAULT_ML_ROOT))
    ml_root.chmod(0o1777)
    command = image.command(environment=environment, volumes={ml_root: contract.DEFAULT_ML_ROOT})
    os.execvp(command[0], command)  # noqa: S606 - the argument list is spelled right here


if __name__ == "__main__":
    main(Path(sys.argv[1]))
