"""Writes to every folder by its path and reads by its variable, and the other way; so does a process that it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

from horovod_node import steps

FOLDERS = {
    "SM_MODEL_DIR": "/opt/ml/model",
    "SM_CHECKPOINT_DIR": "/opt/ml/checkpoints",
    "SM_OUTPUT_DIR": "/opt/ml/output",
    "SM_OUTPUT_DATA_DIR": "/opt/ml/output/data",
    "SM_TENSORBOARD_DIR": "/opt/ml/output/tensorboard",
}
READ = "import os, sys; print(*sorted(name for name in os.listdir(sys.argv[1]) if name.startswith('by-')))"


def listed(folder):
    # In a session of its own, as what a launcher starts.
    command = [sys.executable, "-c", READ, folder]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True).stdout.split()


host = os.environ["SM_CURRENT_HOST"]
for variable, path in FOLDERS.items():
    Path(path, f"by-path-{host}").write_text(host)
    Path(os.environ[variable], f"by-variable-{host}").write_text(host)
print(
    "found",
    json.dumps(
        {
            "host": host,
            "hosts": json.loads(os.environ["SM_HOSTS"]),
            "folders": {variable: [listed(path), listed(os.environ[variable])] for variable, path in FOLDERS.items()},
            "data": [
                Path(folder, "part-0.txt").read_text()
                for folder in ("/opt/ml/input/data/numbers", os.environ["SM_CHANNEL_NUMBERS"])
            ],
            "hyperparameters": json.loads(Path("/opt/ml/input/config/hyperparameters.json").read_text()),
            "code": [str(Path.cwd()), __file__],
        },
        sort_keys=True,
    ),
)
steps.report(1)
