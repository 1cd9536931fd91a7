"""The end of a run that would cost more than it may: its ranks stop in order, its checkpoints come to S3."""

from __future__ import annotations

import time
from collections.abc import Callable

from horovod_node import contract
from horovod_node.background import in_background
from horovod_node.ceiling import CostCeiling
from horovod_node.errors import RunError
from horovod_node.local_training import TURN_SECONDS, LocalTraining
from horovod_node.membership import Membership
from horovod_node.task import Task
from horovod_node.upload import UPLOAD_ERRORS, FolderUpload
from horovod_node.work import Work


def stop_at_ceiling(
    work: Work, membership: Membership, task: Task, *, training: LocalTraining, ceiling: CostCeiling
) -> RunError:
    """
    Stop the ring before *ceiling*, and save what the script left in the checkpoints' folder of this node, the leader.

    The leader's ranks are the first to hear SIGTERM. Ranks of other nodes that stopped before them would break the ring
    under rank 0 while it writes its last checkpoint; they stop when their nodes read that the leader gave up.

    Args:
        work: What the node works on.
        membership: Kept meanwhile.
        task: The state machine's question for the training, kept alive meanwhile.
        training: The leader's ranks.
        ceiling: What the run may cost.

    Returns:
        The error that ends the run: what it cost, and where its checkpoints are.
    """
    cost = ceiling.explain(time.time())

    def keep() -> None:
        membership.keep(step=training.step)
        task.heartbeat()

    training.ask_to_stop()
    while training.running and time.time() < ceiling.ranks_end_at:
        keep()
        time.sleep(TURN_SECONDS)
    training.kill()
    membership.keep(state=contract.NODE_FAILED)
    return RunError(contract.ERROR_COST_CEILING, f"{cost} {_save_checkpoints(work, ceiling, keep=keep)}")


def _save_checkpoints(work: Work, ceiling: CostCeiling, *, keep: Callable[[], None]) -> str:
    """Upload the checkpoints, and say in a sentence what became of them."""
    folder, bucket = work.layout.checkpoints, work.run.settings.model_bucket
    key = contract.checkpoint_key(work.lease.run)
    if not any(path.is_file() for path in folder.rglob("*")):
        return f"The script left no checkpoint in {folder}."
    uploading = in_background(FolderUpload(work.s3, folder=folder, bucket=bucket, key=key).run)
    while not uploading.done():
        if time.time() >= ceiling.upload_ends_at:
            return f"The checkpoints in {folder} were too large to be uploaded in the time that was left."
        keep()
        time.sleep(TURN_SECONDS)
    try:
        uploading.result()
    except UPLOAD_ERRORS as error:
        return f"The checkpoints could not be uploaded to s3://{bucket}/{key}: {error}"
    return f"The checkpoints are in s3://{bucket}/{key}."
