"""The upload of the model to S3."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.attempt.task import Task
from horovod_node.node.background import in_background
from horovod_node.node.errors import RunError
from horovod_node.node.waiting import wait_until
from horovod_node.ring.read_back import READ_ERRORS, ReadBack
from horovod_node.transfer.folder_upload import UPLOAD_ERRORS, FolderUpload, TakenError, entries
from horovod_node.transfer.s3 import refused

_log = logging.getLogger(__name__)

T = TypeVar("T")


def save_model(work: NodeAttempt, task: Task, *, keep: Callable[[], None]) -> dict[str, Any]:
    """
    Upload the model folder as SageMaker does, and read it back as a download would. Progress sends heartbeats.

    A model is never replaced. If an earlier attempt of the run stored one, but was lost before it could report it, that
    one is the run's model. If the run needs no model and the script left none, an empty archive is stored.

    Args:
        work: The node's part in the attempt.
        task: The state machine's save task.
        keep: Called repeatedly; an exception that it raises ends the upload.

    Returns:
        The answer to the state machine: key, bytes and files.

    Raises:
        RunError: If the script left no file but a model is required, S3 refuses the upload, an object that no earlier
            attempt of this run stored is already there, or `contract.unpack_archive` would refuse the archive.
    """
    folder, bucket = work.layout.model, work.run.settings.model_bucket
    files = sum(1 for path, _ in entries(folder) if path.is_file())
    if not files and work.run.request.model_required:
        raise RunError(
            contract.ERROR_MODEL_MISSING,
            f"The script ended well but left no file in SM_MODEL_DIR ({folder}) on rank 0's node, {work.node.id}. Save "
            "the model there on rank 0, or start the run with --no-model.",
        )
    key = contract.model_key(work.lease.run_id)
    metadata = {contract.MODEL_ATTEMPT: str(work.lease.attempt), contract.MODEL_FILES: str(files)}
    upload = FolderUpload(work.s3, folder=folder, bucket=bucket, key=key, metadata=metadata)

    def wait(doing: Future[T], progress: Callable[[], object]) -> T:
        told: object = None

        def tick() -> None:
            nonlocal told
            if (now := progress()) != told:
                told = now
                task.heartbeat()
            keep()

        wait_until(doing.done, tick=tick)
        return doing.result()

    answer = {contract.KEY: key, contract.FILES: files}
    try:
        wait(in_background(upload.run), lambda: (upload.packed_bytes, upload.sent_bytes))
        answer[contract.BYTES] = upload.sent_bytes
    except TakenError as taken:
        answer |= _of_an_earlier_attempt(taken, attempt=work.lease.attempt)
    except (ClientError, BotoCoreError, Boto3Error) as error:
        raise refused("The model", f"s3://{bucket}/{key}", error, to="uploaded") from error
    except UPLOAD_ERRORS as error:
        raise RunError(
            contract.ERROR_NODE_FAILED, f"The model could not be uploaded to s3://{bucket}/{key}: {error}"
        ) from error
    reading = ReadBack(work.s3, bucket=bucket, key=key)
    try:
        wait(in_background(reading.run), lambda: reading.bytes)
    except contract.ArchiveRefused as error:
        raise RunError(
            contract.ERROR_MODEL_MISSING,
            f"The model is at s3://{bucket}/{key}, but 'cdk-horovod download' could not unpack it: {error}.",
        ) from error
    except (ClientError, BotoCoreError) as error:
        raise refused("The model", f"s3://{bucket}/{key}", error) from error
    except READ_ERRORS as error:
        raise RunError(
            contract.ERROR_NODE_FAILED, f"The model could not be read back from s3://{bucket}/{key}: {error}"
        ) from error
    return answer


def _of_an_earlier_attempt(taken: TakenError, *, attempt: int) -> dict[str, Any]:
    by, files = taken.metadata.get(contract.MODEL_ATTEMPT, ""), taken.metadata.get(contract.MODEL_FILES, "")
    if not by.isdecimal() or not files.isdecimal() or int(by) >= attempt:
        raise RunError(contract.ERROR_NODE_FAILED, f"The model could not be uploaded: {taken}.") from taken
    _log.info("attempt %s has already stored the model", by)
    return {contract.BYTES: taken.bytes, contract.FILES: int(files)}
