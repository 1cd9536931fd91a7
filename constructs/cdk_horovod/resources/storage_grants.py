"""Grants on a training's buckets, new or existing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge_objects
from horovod_node import contract

_MULTIPART_ACTIONS: Final = ("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
_UPLOAD_ACTIONS: Final = ("s3:PutObject", *_MULTIPART_ACTIONS)

_UPLOAD_KEY_ACTIONS: Final = ("kms:GenerateDataKey", "kms:Decrypt")
"""S3 decrypts the parts of a multipart upload to join them. Source: S3 User Guide, "Using server-side encryption"."""


_IF_NOTHING_IS_THERE: Final = {"Null": {"s3:if-none-match": "false"}}
"""
The request must not replace an object: it has `If-None-Match`, for which S3 accepts only `*`. This condition and the
next one are those of the S3 User Guide, "Enforce conditional writes on Amazon S3 buckets", example 1.
"""
_NO_OBJECT_YET: Final = {"Bool": {"s3:ObjectCreationOperation": "false"}}
"""The request begins a multipart upload or adds a part, which store no object and do not take `If-None-Match`."""


class StorageGrants(Construct):
    """
    A data bucket and a model bucket, with the grants that nodes, workflow and users need.

    Results of runs are granted for one *training*, by its name in the ids of runs (`contract.run_id`). Several
    trainings may share a bucket, and none can reach the results of another one.
    """

    data_bucket: s3.IBucket
    model_bucket: s3.IBucket

    def grant_read_data(self, grantee: iam.IGrantable) -> iam.Grant:
        """
        Allow *grantee* to list and read the data bucket.

        Raises:
            ValueError: If *grantee* cannot have policies; all grants raise this.
        """
        return _grant(
            grantee,
            self.data_bucket,
            actions=["s3:GetObject"],
            paths=["/*"],
            key_actions=["kms:Decrypt"],
            list_bucket=True,
            reason="A request names the prefixes that it reads, so every object of the data bucket must be readable.",
        )

    def grant_upload_source(self, grantee: iam.IGrantable) -> iam.Grant:
        """Allow *grantee* to store packaged scripts without replacing any, and to read those that exist."""
        path = f"/{contract.source_key('*')}"
        reason = "A packaged script is stored under its own digest, which is not known at synthesis."
        read = _grant(
            grantee,
            self.data_bucket,
            actions=["s3:GetObject"],
            paths=[path],
            key_actions=_UPLOAD_KEY_ACTIONS,
            list_bucket=True,
            reason=reason,
        )
        return read.combine(
            iam.Grant.add_to_principal(
                grantee=grantee,
                actions=["s3:PutObject"],
                resource_arns=[f"{self.data_bucket.bucket_arn}{path}"],
                conditions=_IF_NOTHING_IS_THERE,
            )
        )

    def grant_write_models(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """
        Allow *grantee* to store the models of a training's runs without replacing any.

        Reading is included: if S3's answer was lost, the node must check whether the stored model is the one it sent.
        """
        path = _models(training)
        grant = _grant(
            grantee,
            self.model_bucket,
            actions=["s3:GetObject", *_MULTIPART_ACTIONS],
            paths=[path],
            key_actions=_UPLOAD_KEY_ACTIONS,
            reason="A model is stored under its run's id, which is not known at synthesis.",
        )
        for condition in (_IF_NOTHING_IS_THERE, _NO_OBJECT_YET):
            grant = grant.combine(
                iam.Grant.add_to_principal(
                    grantee=grantee,
                    actions=["s3:PutObject"],
                    resource_arns=[f"{self.model_bucket.bucket_arn}{path}"],
                    conditions=condition,
                )
            )
        return grant

    def grant_mirror_checkpoints(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """
        Allow *grantee* to list, read, store and delete the checkpoints of a training's runs, and nothing else.

        In a versioned bucket, deleted checkpoints stay recoverable for a day, because versions cannot be deleted.
        """
        return _grant(
            grantee,
            self.model_bucket,
            actions=["s3:GetObject", "s3:DeleteObject", *_UPLOAD_ACTIONS],
            paths=[_checkpoints(training)],
            key_actions=_UPLOAD_KEY_ACTIONS,
            list_bucket=True,
            list_prefix=_checkpoints(training)[1:],
            reason="Checkpoints are stored under their run's id, not known at synthesis; a run may resume another.",
        )

    def grant_mirror_tensorboard(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """Allow *grantee* to store the TensorBoard files of a training's runs, and nothing else in the bucket."""
        return _grant(
            grantee,
            self.model_bucket,
            actions=_UPLOAD_ACTIONS,
            paths=[_tensorboard(training)],
            key_actions=_UPLOAD_KEY_ACTIONS,
            reason="TensorBoard's files are stored under their run's id, which is not known at synthesis.",
        )

    def grant_write_receipts(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """Allow *grantee* to store the receipts of a training's runs, and nothing else in the bucket."""
        return _grant(
            grantee,
            self.model_bucket,
            actions=["s3:PutObject"],
            paths=[_receipts(training)],
            key_actions=["kms:GenerateDataKey"],
            reason="A receipt is stored under its run's id, which is not known at synthesis.",
        )

    def grant_check_models(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """
        Allow *grantee* to check that a run's model exists, and its size.

        S3 has no smaller permission for this than reading. Listing is included, because without it S3 answers
        "forbidden" instead of "not found" for a missing object.
        """
        return _grant(
            grantee,
            self.model_bucket,
            actions=["s3:GetObject"],
            paths=[_models(training)],
            key_actions=["kms:Decrypt"],
            list_bucket=True,
            reason="A model is stored under its run's id, which is not known at synthesis.",
        )

    def grant_read_models(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """
        Allow *grantee* to list the model bucket and read the results of a training's runs.

        Listing is included for the reason in `grant_check_models`.
        """
        return _grant(
            grantee,
            self.model_bucket,
            actions=["s3:GetObject"],
            paths=[_models(training), _checkpoints(training), _receipts(training), _tensorboard(training)],
            key_actions=["kms:Decrypt"],
            list_bucket=True,
            reason="Results are stored under their run's id, which is not known at synthesis.",
        )


def _models(training: str) -> str:
    return f"/{contract.model_key(contract.training_prefix(training) + '*')}"


def _receipts(training: str) -> str:
    return f"/{contract.receipt_key(contract.training_prefix(training) + '*')}"


def _tensorboard(training: str) -> str:
    return f"/{contract.tensorboard_prefix(contract.training_prefix(training) + '*')}*"


def _checkpoints(training: str) -> str:
    return f"/{contract.CHECKPOINT_PREFIX}{contract.training_prefix(training)}*"


def _grant(
    grantee: iam.IGrantable,
    bucket: s3.IBucket,
    *,
    actions: Sequence[str],
    paths: Sequence[str],
    key_actions: Sequence[str],
    reason: str,
    list_bucket: bool = False,
    list_prefix: str | None = None,
) -> iam.Grant:
    """
    Allow exactly *actions* on objects below *paths*, and *key_actions* on the bucket's key.

    CDK's grants, such as `Bucket.grant_read`, allow more: `s3:GetObject*`, `s3:List*`, `kms:GenerateDataKey*`.
    """
    grant = iam.Grant.add_to_principal(
        grantee=grantee,
        actions=list(actions),
        resource_arns=[f"{bucket.bucket_arn}{path}" for path in paths],
    )
    if not grant.success:
        raise ValueError(f"'grantee' must be a role, a user or a group, which can have policies, got {grantee}")
    for path in paths:
        acknowledge_objects(grantee, owner=bucket, arn=bucket.bucket_arn, path=path, reason=reason)
    if list_bucket:
        grant = grant.combine(
            iam.Grant.add_to_principal(
                grantee=grantee,
                actions=["s3:ListBucket"],
                resource_arns=[bucket.bucket_arn],
                conditions={"StringLike": {"s3:prefix": list_prefix}} if list_prefix else None,
            )
        )
    if bucket.encryption_key is not None:
        grant = grant.combine(bucket.encryption_key.grant(grantee, *key_actions))
    return grant
