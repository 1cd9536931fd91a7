"""
Upload of what a job's containers leave in `/opt/ml/model` and `/opt/ml/output/data`.

Source: SageMaker Developer Guide, "How Amazon SageMaker Processes Training Output". The folders of all hosts become one
archive each, and a job whose folders are empty uploads nothing (aws/sagemaker-python-sdk issue 3455).
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from horovod_local.corrections.sagemaker.training_job import TrainingJob
from horovod_local.instances.processes import cloud_environment

_ARCHIVES: Final = {"model.tar.gz": "model", "output.tar.gz": "output/data"}
"""Archives, and the folders below `/opt/ml` that they hold."""


def upload_output(job: TrainingJob, folders: Iterable[Path], *, endpoint: str, access_key: str) -> str:
    """
    Upload the output of a job as its role.

    Args:
        job: The job.
        folders: The folder `/opt/ml` of each host.
        endpoint: URL of the local cloud.
        access_key: Id of an access key of the job's role.

    Returns:
        The reason of the failure; empty if it was uploaded, or there was nothing to upload.
    """
    hosts, output = list(folders), job.request["OutputDataConfig"]
    found = {name: [entry for ml in hosts for entry in _entries(ml / inside)] for name, inside in _ARCHIVES.items()}
    if not any(found.values()):
        return ""
    place = urlsplit(output["S3OutputPath"])
    key = {"SSEKMSKeyId": output["KmsKeyId"]} if output.get("KmsKeyId") else {}
    s3 = _s3(endpoint, access_key=access_key, region=job.region)
    for name, entries in found.items():
        if not entries:
            continue
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                for entry in entries:
                    tar.add(entry, arcname=entry.name)
            archive.seek(0)
            try:
                s3.put_object(
                    Bucket=place.netloc,
                    Key=f"{place.path.strip('/')}/{job.name}/output/{name}".lstrip("/"),
                    Body=archive,
                    ServerSideEncryption="aws:kms",
                    **key,
                )
            except (BotoCoreError, ClientError) as error:
                return f"ClientError: Artifact upload failed: {error}"
    return ""


def _entries(folder: Path) -> list[Path]:
    # A link leads into the container's file system, which SageMaker does not see.
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _s3(endpoint: str, *, access_key: str, region: str) -> Any:
    credentials = cloud_environment(endpoint, access_key=access_key)
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    )
