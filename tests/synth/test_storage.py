"""`TrainingStorage`: three buckets, and permissions that name what they allow."""

from __future__ import annotations

from typing import Any

import pytest
from aws_cdk import App, CfnParameter, Duration, Fn, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3

from cdk_horovod import TrainingStorage
from support.construct_stacks import Stacks, flat, synthesise_validated

pytestmark = pytest.mark.synth

READ = {"s3:GetObject"}
UPLOAD = {"s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"}


def role(scope: Stack, id: str) -> iam.Role:
    return iam.Role(scope, id, assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    def build(app: App) -> None:
        own = Stack(app, "Own")
        storage = TrainingStorage(own, "Storage")
        grants = "read_data upload_source write_models mirror_checkpoints mirror_tensorboard write_receipts read_models"
        for grant in grants.split():
            of_runs = {} if grant in {"read_data", "upload_source"} else {"training": "Digits"}
            getattr(storage, f"grant_{grant}")(role(own, grant.title().replace("_", "")), **of_runs)

        elsewhere = Stack(app, "Elsewhere")
        node = role(elsewhere, "Node")
        storage.grant_write_models(node, training="Digits")
        storage.grant_mirror_checkpoints(node, training="Digits")

        custom = Stack(app, "Custom")
        TrainingStorage(
            custom,
            "Storage",
            encryption_key=kms.Key(custom, "Mine", enable_key_rotation=True),
            removal_policy=RemovalPolicy.DESTROY,
            checkpoint_expiration=Duration.days(3),
            log_expiration=Duration.days(7),
        )

        imported = Stack(app, "Imported")
        TrainingStorage.from_buckets(
            imported,
            "Storage",
            data_bucket=s3.Bucket.from_bucket_name(imported, "Data", "my-data"),
            model_bucket=s3.Bucket.from_bucket_name(imported, "Models", "my-models"),
        ).grant_read_data(role(imported, "Node"))

        computed = Stack(app, "Computed")
        arns = CfnParameter(computed, "Arns", type="CommaDelimitedList").value_as_list
        of_account = Fn.sub("arn:${AWS::Partition}:s3:::data-${AWS::AccountId}")
        storage = TrainingStorage.from_buckets(
            computed,
            "Storage",
            data_bucket=s3.Bucket.from_bucket_arn(computed, "Data", of_account),
            model_bucket=s3.Bucket.from_bucket_arn(computed, "Models", Fn.select(1, arns)),
        )
        storage.grant_read_data(role(computed, "Reader"))
        writer = role(computed, "Writer")
        storage.grant_write_models(writer, training="Digits")
        storage.grant_mirror_checkpoints(writer, training="Digits")

    return synthesise_validated(tmp_path_factory.mktemp("storage"), build)


def buckets(stacks: Stacks, stack: str) -> dict[str, Any]:
    """Find the buckets by the word before "Bucket" in their id."""
    return {
        kind: stacks.resource(stack, "AWS::S3::Bucket", id=f"Storage{kind}Bucket") for kind in ("Data", "Model", "Log")
    }


def test_buckets_are_private_and_reached_over_tls_only(stacks: Stacks) -> None:
    """Each bucket blocks public access, has no ACLs and denies plain HTTP."""
    # WHEN
    found = buckets(stacks, "Own")
    policies = stacks.resources("Own", "AWS::S3::BucketPolicy").values()

    # THEN
    for bucket in found.values():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
        assert "AccessControl" not in bucket
    denials = [
        flat(policy["Bucket"])
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    ]
    assert sorted(denials) == sorted(stacks.resources("Own", "AWS::S3::Bucket"))


def test_data_and_models_are_encrypted_with_one_rotating_key(stacks: Stacks) -> None:
    """Data and models have the storage's key; the log bucket has S3's own, which access logs need."""
    # WHEN
    found = {
        kind: bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]["ServerSideEncryptionByDefault"]
        for kind, bucket in buckets(stacks, "Own").items()
    }
    ((key, properties),) = stacks.resources("Own", "AWS::KMS::Key").items()

    # THEN
    of_key = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": {"Fn::GetAtt": [key, "Arn"]}}
    assert found == {"Data": of_key, "Model": of_key, "Log": {"SSEAlgorithm": "AES256"}}
    assert properties["EnableKeyRotation"] is True


def test_access_is_logged(stacks: Stacks) -> None:
    """Data and model bucket log into the log bucket, whose policy admits S3's delivery for these two only."""
    # WHEN
    found = buckets(stacks, "Own")
    policy = stacks.resource("Own", "AWS::S3::BucketPolicy", id="StorageLogBucket")
    deliveries = {
        (flat(statement["Condition"]["ArnLike"]["aws:SourceArn"]), flat(statement["Resource"]))
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Principal"] == {"Service": "logging.s3.amazonaws.com"}
    }

    # THEN
    (log,) = stacks.resources("Own", "AWS::S3::Bucket", id="StorageLogBucket")
    (data,) = stacks.resources("Own", "AWS::S3::Bucket", id="StorageDataBucket")
    (models,) = stacks.resources("Own", "AWS::S3::Bucket", id="StorageModelBucket")
    assert found["Data"]["LoggingConfiguration"] == {"DestinationBucketName": {"Ref": log}, "LogFilePrefix": "data/"}
    assert found["Model"]["LoggingConfiguration"] == {
        "DestinationBucketName": {"Ref": log},
        "LogFilePrefix": "models/",
    }
    assert deliveries == {(data, f"{log}/data/*"), (models, f"{log}/models/*")}


@pytest.mark.parametrize(("stack", "checkpoints", "logs"), [("Own", 30, 90), ("Custom", 3, 7)])
def test_what_is_no_longer_needed_expires(stacks: Stacks, stack: str, checkpoints: int, logs: int) -> None:
    """Checkpoints, logs, replaced versions and abandoned uploads expire; models and data stay."""
    # WHEN
    found = {kind: bucket["LifecycleConfiguration"]["Rules"] for kind, bucket in buckets(stacks, stack).items()}

    # THEN
    abandoned = {
        "Id": "abandoned-uploads",
        "Status": "Enabled",
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    }
    replaced = {
        "Id": "replaced-versions",
        "Status": "Enabled",
        "ExpiredObjectDeleteMarker": True,
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
    }
    assert found == {
        "Data": [abandoned, replaced],
        "Log": [abandoned, {"Id": "logs", "Status": "Enabled", "ExpirationInDays": logs}],
        "Model": [
            abandoned,
            {
                "Id": "checkpoints",
                "Status": "Enabled",
                "Prefix": "checkpoints/",
                "ExpirationInDays": checkpoints,
                "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
            },
            replaced,
        ],
    }


def test_scripts_and_models_are_versioned(stacks: Stacks) -> None:
    """Scripts and models that were replaced or deleted can be restored."""
    versioned = {kind for kind, bucket in buckets(stacks, "Own").items() if "VersioningConfiguration" in bucket}
    assert versioned == {"Data", "Model"}


@pytest.mark.parametrize(("stack", "policy"), [("Own", "Retain"), ("Custom", "Delete")])
def test_removal_policy_applies_to_all(stacks: Stacks, stack: str, policy: str) -> None:
    """Buckets and the storage's own key outlive the stack, unless the user decides otherwise."""
    resources = stacks.templates[stack].to_json()["Resources"]
    stateful = {
        name: resource["DeletionPolicy"]
        for name, resource in resources.items()
        if resource["Type"] in {"AWS::S3::Bucket", "AWS::KMS::Key"} and name.startswith("Storage")
    }
    assert set(stateful.values()) == {policy}


def test_a_given_key_is_used(stacks: Stacks) -> None:
    """The user's key encrypts the buckets, and no other key is made."""
    (key,) = stacks.resources("Custom", "AWS::KMS::Key")
    assert key.startswith("Mine")


def test_nothing_is_custom(stacks: Stacks) -> None:
    """No Lambda function and no custom resource: the template needs S3 and KMS only."""
    assert stacks.kinds("Custom") == {"AWS::KMS::Key", "AWS::S3::Bucket", "AWS::S3::BucketPolicy"}


@pytest.mark.parametrize(
    ("name", "bucket", "objects", "key_actions", "lists"),
    [
        ("ReadData", "Data", {"/*": READ}, {"kms:Decrypt"}, True),
        (
            "UploadSource",
            "Data",
            {"/source/*/source.tar.gz": READ | {"s3:PutObject"}},
            {"kms:GenerateDataKey", "kms:Decrypt"},
            True,
        ),
        (
            "WriteModels",
            "Model",
            {"/runs/Digits/*/model.tar.gz": READ | UPLOAD},
            {"kms:GenerateDataKey", "kms:Decrypt"},
            False,
        ),
        (
            "MirrorCheckpoints",
            "Model",
            {"/checkpoints/Digits/*": READ | UPLOAD | {"s3:DeleteObject"}},
            {"kms:GenerateDataKey", "kms:Decrypt"},
            True,
        ),
        (
            "MirrorTensorboard",
            "Model",
            {"/runs/Digits/*/tensorboard/*": UPLOAD},
            {"kms:GenerateDataKey", "kms:Decrypt"},
            False,
        ),
        ("WriteReceipts", "Model", {"/runs/Digits/*/receipt.json": {"s3:PutObject"}}, {"kms:GenerateDataKey"}, False),
        (
            "ReadModels",
            "Model",
            {
                "/runs/Digits/*/model.tar.gz": READ,
                "/checkpoints/Digits/*": READ,
                "/runs/Digits/*/receipt.json": READ,
                "/runs/Digits/*/tensorboard/*": READ,
            },
            {"kms:Decrypt"},
            True,
        ),
    ],
)
def test_grant_allows_exactly(
    stacks: Stacks, name: str, bucket: str, objects: dict[str, set[str]], key_actions: set[str], lists: bool
) -> None:
    """Each grant names its actions, its objects and the key that they need; no action has a wildcard."""
    # WHEN
    allowed: dict[str, set[str]] = {}
    for statement in stacks.statements("Own", role=name):
        actions, arns = statement["Action"], statement["Resource"]
        for arn in arns if isinstance(arns, list) else [arns]:
            allowed.setdefault(flat(arn), set()).update([actions] if isinstance(actions, str) else actions)

    # THEN
    (bucket_id,) = stacks.resources("Own", "AWS::S3::Bucket", id=f"Storage{bucket}Bucket")
    (key_id,) = stacks.resources("Own", "AWS::KMS::Key")
    expected = {f"{bucket_id}{path}": actions for path, actions in objects.items()} | {key_id: key_actions}
    assert allowed == expected | ({bucket_id: {"s3:ListBucket"}} if lists else {})


def test_nodes_list_checkpoints_only(stacks: Stacks) -> None:
    """A node may list checkpoints, and nothing else in the model bucket."""
    # WHEN
    conditions = {
        role: [
            statement.get("Condition")
            for statement in stacks.statements("Own", role=role)
            if statement["Action"] == "s3:ListBucket"
        ]
        for role in ("MirrorCheckpoints", "ReadModels")
    }

    # THEN
    assert conditions == {
        "MirrorCheckpoints": [{"StringLike": {"s3:prefix": "checkpoints/Digits/*"}}],
        "ReadModels": [None],
    }


def test_findings_are_accepted_one_by_one(stacks: Stacks) -> None:
    """Each acknowledgement names one path, whether the bucket is of the role's stack, of another, or imported."""
    # GIVEN
    (data,) = stacks.resources("Own", "AWS::S3::Bucket", id="StorageDataBucket")
    (models,) = stacks.resources("Own", "AWS::S3::Bucket", id="StorageModelBucket")
    (export,) = (
        output["Export"]["Name"]
        for name, output in stacks.templates["Own"].to_json()["Outputs"].items()
        if "ModelBucket" in name
    )

    # THEN
    findings = {
        ("Own/ReadData", f"<{data}.Arn>/*"),
        ("Own/UploadSource", f"<{data}.Arn>/source/*/source.tar.gz"),
        ("Own/WriteModels", f"<{models}.Arn>/runs/Digits/*/model.tar.gz"),
        ("Own/MirrorCheckpoints", f"<{models}.Arn>/checkpoints/Digits/*"),
        ("Own/MirrorTensorboard", f"<{models}.Arn>/runs/Digits/*/tensorboard/*"),
        ("Own/ReadModels", f"<{models}.Arn>/runs/Digits/*/tensorboard/*"),
        ("Own/WriteReceipts", f"<{models}.Arn>/runs/Digits/*/receipt.json"),
        ("Own/ReadModels", f"<{models}.Arn>/runs/Digits/*/model.tar.gz"),
        ("Own/ReadModels", f"<{models}.Arn>/checkpoints/Digits/*"),
        ("Own/ReadModels", f"<{models}.Arn>/runs/Digits/*/receipt.json"),
        ("Elsewhere/Node", f"{export}/runs/Digits/*/model.tar.gz"),
        ("Elsewhere/Node", f"{export}/checkpoints/Digits/*"),
        ("Imported/Node", "arn:<AWS::Partition>:s3:::my-data/*"),
        ("Computed/Reader", "arn:<AWS::Partition>:s3:::data-<AWS::AccountId>/*"),
        ("Computed/Writer", '{"Fn::Select":[1,{"Ref":"Arns"}]}/runs/Digits/*/model.tar.gz'),
        ("Computed/Writer", '{"Fn::Select":[1,{"Ref":"Arns"}]}/checkpoints/Digits/*'),
    }
    assert stacks.accepted == {
        (f"AwsSolutions-IAM5[Resource::{resource}]", f"{path}/DefaultPolicy/Resource") for path, resource in findings
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"checkpoint_expiration": Duration.hours(12)},
            "'checkpoint_expiration' must be a whole number of days, at least 1, got 0.5 days",
        ),
        (
            {"log_expiration": Duration.hours(36)},
            "'log_expiration' must be a whole number of days, at least 1, got 1.5 days",
        ),
    ],
)
def test_fails_when_an_expiration_is_no_whole_number_of_days(arguments: dict[str, Any], message: str) -> None:
    """An expiration must be a whole number of days, as S3 counts."""
    with pytest.raises(ValueError, match=message):
        TrainingStorage(Stack(), "Storage", **arguments)


def test_fails_when_the_grantee_has_no_policies() -> None:
    """A grant to a grantee without policies is an error, because nothing would hold the permission."""
    # GIVEN
    storage = TrainingStorage(Stack(), "Storage")

    # WHEN / THEN
    with pytest.raises(ValueError, match="'grantee' must be a role, a user or a group, which can have policies, got "):
        storage.grant_read_data(iam.ServicePrincipal("ec2.amazonaws.com"))
