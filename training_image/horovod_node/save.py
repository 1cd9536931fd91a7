"""The model's way to S3."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.background import in_background
from horovod_node.errors import RunError
from horovod_node.s3 import refused
from horovod_node.task import Task
from horovod_node.upload import UPLOAD_ERRORS, FolderUpload, TakenError
from horovod_node.work import Work

_log = logging.getLogger(__name__)


def save_model(work: Work, task: Task, *, keep: Callable[[], None]) -> dict[str, Any]:
    """
    Upload the model folder as SageMaker does, with a heartbeat for every progress of the upload.

    A model is never replaced. Where an earlier attempt of the run stored one, and was lost before it could say so, that
    one is the run's model.

    Args:
        work: What the node works on.
        task: The state machine's question for the model.
        keep: Called in every turn; what it raises ends the upload.

    Returns:
        The answer to the state machine: key, bytes and files.

    Raises:
        RunError: If the script left nothing, S3 refuses the upload, or the model is there and no attempt of this run
            stored it.
    """
    folder, bucket = work.layout.model, work.run.settings.model_bucket
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    if not files:
        raise RunError(
            contract.ERROR_MODEL_MISSING,
            f"The script ended well but left no file in SM_MODEL_DIR ({folder}) on rank 0's node, {work.node.id}.",
        )
    key = contract.model_key(work.lease.run_id)
    metadata = {contract.MODEL_ATTEMPT: str(work.lease.attempt), contract.MODEL_FILES: str(files)}
    upload = FolderUpload(work.s3, folder=folder, bucket=bucket, key=key, metadata=metadata)
    uploading = in_background(upload.run)
    told = -1
    while not uploading.done():
        if upload.sent_bytes > told:
            told = upload.sent_bytes
            task.heartbeat()
        keep()
        time.sleep(0.1)
    try:
        uploading.result()
    except TakenError as taken:
        return {contract.KEY: key, **_of_an_earlier_attempt(taken, attempt=work.lease.attempt)}
    except (ClientError, BotoCoreError, Boto3Error) as error:
        raise refused("The model", f"s3://{bucket}/{key}", error, to="uploaded") from error
    except UPLOAD_ERRORS as error:
        raise RunError(
            contract.ERROR_NODE_FAILED, f"The model could not be uploaded to s3://{bucket}/{key}: {error}"
        ) from error
    return {contract.KEY: key, contract.BYTES: upload.sent_bytes, contract.FILES: files}


def _of_an_earlier_attempt(taken: TakenError, *, attempt: int) -> dict[str, Any]:
    by, files = taken.metadata.get(contract.MODEL_ATTEMPT, ""), taken.metadata.get(contract.MODEL_FILES, "")
    if not by.isdecimal() or not files.isdecimal() or int(by) >= attempt:
        raise RunError(contract.ERROR_NODE_FAILED, f"The model could not be uploaded: {taken}.") from taken
    _log.info("attempt %s has stored the model already", by)
    return {contract.BYTES: taken.bytes, contract.FILES: int(files)}
