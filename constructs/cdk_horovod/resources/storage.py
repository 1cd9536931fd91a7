"""The buckets for data, models and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk_horovod.resources.storage_grants import StorageGrants
from horovod_node import contract

if TYPE_CHECKING:
    from collections.abc import Sequence

_ABANDONED_UPLOAD_DAYS: Final = 7
_REPLACED_DAYS: Final = 30
_PRUNED_CHECKPOINT_DAYS: Final = 1
"""The minimum of S3. Leaders delete checkpoints continually, and their noncurrent versions would cost as much."""


class ITrainingStorage(Protocol):
    """Buckets from which runs read and to which they write."""

    @property
    def data_bucket(self) -> s3.IBucket:
        """Packaged scripts and training data."""

    @property
    def model_bucket(self) -> s3.IBucket:
        """Models, receipts, checkpoints and TensorBoard files."""

    def grant_read_data(self, grantee: iam.IGrantable) -> iam.Grant:
        """Allow *grantee* to list and read the data bucket."""

    def grant_upload_source(self, grantee: iam.IGrantable) -> iam.Grant:
        """Allow *grantee* to store packaged scripts without replacing any, and to read those that exist."""

    def grant_write_models(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """Allow *grantee* to store the models of a training's runs without replacing any."""

    def grant_mirror_checkpoints(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """Allow *grantee* to list, read, store and delete the checkpoints of runs."""

    def grant_mirror_tensorboard(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """Allow *grantee* to store TensorBoard files, and nothing else in the bucket."""

    def grant_write_receipts(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """Allow *grantee* to store the receipts of runs, and nothing else in the bucket."""

    def grant_check_models(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """Allow *grantee* to check that a run's model exists, and its size."""

    def grant_read_models(self, grantee: iam.IGrantable, *, training: str) -> iam.Grant:
        """Allow *grantee* to list the model bucket and read the results of runs."""


class TrainingStorage(StorageGrants):
    """
    Buckets for data, models and logs: encrypted, private, reachable over TLS only.

    Creates: a KMS key with yearly rotation (unless one is given) and three buckets. The data bucket holds packaged
    scripts and training data. It and the model bucket are versioned, and keep noncurrent versions for 30 days. The log
    bucket holds the access logs of both, and is encrypted with S3's own keys, because S3 does not deliver access logs
    to a bucket that is encrypted with KMS (S3 User Guide, "Enabling Amazon S3 server access logging"). Incomplete
    uploads are aborted after 7 days in all three. Checkpoints expire; their noncurrent versions and incomplete uploads
    are deleted after a day.

    Cost at rest: one KMS key, 1 USD a month (list price, us-east-1), and the stored data.

    Args:
        encryption_key:
            Symmetric KMS key for the data and model buckets.
            Default: a new key.

        removal_policy:
            Whether key and buckets are deleted with the stack. CloudFormation deletes only empty buckets, so with
            `DESTROY` you must empty them first.
            Default: `RETAIN`.

        checkpoint_expiration:
            Age in whole days after which objects below `checkpoints/` in the model bucket are deleted.
            Default: 30 days.

        log_expiration:
            Age in whole days after which logs are deleted.
            Default: 90 days.

    Raises:
        ValueError: If an expiration is not a whole number of days, at least 1.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        encryption_key: kms.IKey | None = None,
        removal_policy: RemovalPolicy = RemovalPolicy.RETAIN,
        checkpoint_expiration: Duration | None = None,
        log_expiration: Duration | None = None,
    ) -> None:
        super().__init__(scope, id)
        checkpoint_expiration = _whole_days("checkpoint_expiration", checkpoint_expiration, default=30)
        log_expiration = _whole_days("log_expiration", log_expiration, default=90)
        # Without this feature flag CDK grants log delivery by ACL, which new buckets refuse.
        self.node.set_context("@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy", True)

        self.encryption_key = encryption_key or kms.Key(
            self,
            "Key",
            description=f"Training data and models of {self.node.path}",
            enable_key_rotation=True,
            removal_policy=removal_policy,
        )
        self.log_bucket: s3.IBucket = self._bucket(
            "LogBucket",
            removal_policy=removal_policy,
            encryption=s3.BucketEncryption.S3_MANAGED,
            rules=[s3.LifecycleRule(id="logs", expiration=log_expiration)],
        )
        self.data_bucket = self._bucket(
            "DataBucket",
            removal_policy=removal_policy,
            encryption=s3.BucketEncryption.KMS,
            access_log_prefix="data/",
            versioned=True,
            rules=[_replaced_versions()],
        )
        self.model_bucket = self._bucket(
            "ModelBucket",
            removal_policy=removal_policy,
            encryption=s3.BucketEncryption.KMS,
            access_log_prefix="models/",
            versioned=True,
            rules=[
                s3.LifecycleRule(
                    id="checkpoints",
                    prefix=contract.CHECKPOINT_PREFIX,
                    expiration=checkpoint_expiration,
                    noncurrent_version_expiration=Duration.days(_PRUNED_CHECKPOINT_DAYS),
                    abort_incomplete_multipart_upload_after=Duration.days(_PRUNED_CHECKPOINT_DAYS),
                ),
                _replaced_versions(),
            ],
        )

    @staticmethod
    def from_buckets(
        scope: Construct, id: str, *, data_bucket: s3.IBucket, model_bucket: s3.IBucket
    ) -> ITrainingStorage:
        """
        Use existing buckets; creates nothing.

        Args:
            scope: Scope of the construct that grants.
            id: Id of that construct.
            data_bucket: Packaged scripts and training data. If it has an `encryption_key`, import it with the key, or
                the grants cannot include the key.
            model_bucket: Models, receipts and checkpoints; the same applies to its key. May be the same bucket.
        """
        return _ImportedStorage(scope, id, data_bucket=data_bucket, model_bucket=model_bucket)

    def _bucket(
        self,
        id: str,
        *,
        removal_policy: RemovalPolicy,
        encryption: s3.BucketEncryption,
        access_log_prefix: str | None = None,
        versioned: bool = False,
        rules: Sequence[s3.LifecycleRule] = (),
    ) -> s3.Bucket:
        with_key = encryption is s3.BucketEncryption.KMS
        return s3.Bucket(
            self,
            id,
            encryption=encryption,
            encryption_key=self.encryption_key if with_key else None,
            # Avoids a KMS request for every object of a data set.
            bucket_key_enabled=True if with_key else None,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            versioned=versioned,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="abandoned-uploads",
                    abort_incomplete_multipart_upload_after=Duration.days(_ABANDONED_UPLOAD_DAYS),
                ),
                *rules,
            ],
            removal_policy=removal_policy,
            server_access_logs_bucket=self.log_bucket if access_log_prefix else None,
            server_access_logs_prefix=access_log_prefix,
        )


class _ImportedStorage(StorageGrants):
    def __init__(self, scope: Construct, id: str, *, data_bucket: s3.IBucket, model_bucket: s3.IBucket) -> None:
        super().__init__(scope, id)
        self.data_bucket = data_bucket
        self.model_bucket = model_bucket


def _replaced_versions() -> s3.LifecycleRule:
    return s3.LifecycleRule(
        id="replaced-versions",
        noncurrent_version_expiration=Duration.days(_REPLACED_DAYS),
        expired_object_delete_marker=True,
    )


def _whole_days(argument: str, value: Duration | None, *, default: int) -> Duration:
    if value is None:
        return Duration.days(default)
    if not value.is_unresolved():
        days = value.to_days(integral=False)
        if days < 1 or days != int(days):
            raise ValueError(f"'{argument}' must be a whole number of days, at least 1, got {days:g} days")
    return value
