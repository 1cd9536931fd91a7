"""`cdk-horovod tensorboard`: show a run's TensorBoard files, while it runs or afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from horovod_client.cli.completion_candidates import complete_run
from horovod_client.cli.options import print_json, say, training_options
from horovod_client.client import TrainingClient
from horovod_client.errors import HorovodClientError
from horovod_client.results.tensorboard import TensorBoardFiles
from horovod_client.run import Run
from horovod_client.text.amounts import counted

SYNC_SECONDS = 5.0
STOP_SECONDS = 5.0


@click.command()
@click.argument("run", shell_complete=complete_run)
@click.option("--port", type=click.IntRange(1, 65535), default=6006, show_default=True, help="Port on 127.0.0.1.")
@training_options
def tensorboard(*, run: str, port: int, stack: str, output: str | None, as_json: bool) -> None:
    """Show the TensorBoard files of RUN, kept up to date, until Ctrl-C."""
    program = shutil.which("tensorboard")
    if program is None:
        raise HorovodClientError("the program tensorboard is missing: run pip install tensorboard")
    found = Run.from_id(run, client=TrainingClient.from_stack(stack, output=output))
    status = found.status()  # raises RunNotFound before anything is started
    with tempfile.TemporaryDirectory(prefix=f"tensorboard-{run}-") as folder:
        files = TensorBoardFiles(
            found.clients.s3, bucket=found.connection.model_bucket, run_id=found.run_id, folder=Path(folder)
        )
        count = files.sync()
        if not count and status.ended:
            raise HorovodClientError(
                f"run '{run}' has no TensorBoard files: its script must write them on rank 0 to the folder "
                "SM_TENSORBOARD_DIR"
            )
        if as_json:
            print_json({"run": run, "files": count, "url": f"http://127.0.0.1:{port}/"})
        else:
            say(f"{counted(count, 'file')} of run {run}; new ones are fetched every {SYNC_SECONDS:g} s")
        command = [program, "--logdir", folder, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--reload_interval", str(int(SYNC_SECONDS))]
        # TensorBoard imports TensorFlow if it is installed; this hides its messages about the CPU.
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
        with subprocess.Popen(command, env=environment, stdout=sys.stderr if as_json else None) as shown:
            try:
                while shown.poll() is None:
                    time.sleep(SYNC_SECONDS)
                    files.sync()
            except KeyboardInterrupt:
                say("stopped", err=True)
            finally:
                _end(shown)


def _end(shown: subprocess.Popen[bytes]) -> None:
    shown.terminate()
    try:
        shown.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        shown.kill()
