#!/usr/bin/env python3
"""Models, checkpoints and receipts in a bucket of another account."""

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingNetwork, TrainingStorage

app = cdk.App()
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
training_account, model_account, region, model_key = (
    app.node.get_context(key) for key in ("training_account", "model_account", "region", "model_key")
)
bucket_name = f"horovod-models-{model_account}-{region}"

# In the account of the models: a bucket that the account of the training may use, by the policies of its own roles.
models = cdk.Stack(app, "Models", env=cdk.Environment(account=model_account, region=region))
key = kms.Key(models, "Key", enable_key_rotation=True)
bucket = s3.Bucket(
    models,
    "Bucket",
    bucket_name=bucket_name,
    encryption_key=key,
    bucket_key_enabled=True,
    enforce_ssl=True,
    versioned=True,
    block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
    object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
    server_access_logs_prefix="access-logs/",
)
trainer = iam.AccountPrincipal(training_account)
key.grant(trainer, "kms:Decrypt", "kms:GenerateDataKey")
for actions, resource in (
    (["s3:ListBucket"], bucket.bucket_arn),
    (
        ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
        bucket.arn_for_objects("*"),
    ),
):
    bucket.add_to_resource_policy(iam.PolicyStatement(principals=[trainer], actions=actions, resources=[resource]))
cdk.CfnOutput(models, "KeyArn", value=key.key_arn)

# In the account of the training: everything else.
stack = cdk.Stack(app, "Training", env=cdk.Environment(account=training_account, region=region))
own = TrainingStorage(stack, "Storage")
storage = TrainingStorage.from_buckets(
    stack,
    "Buckets",
    data_bucket=own.data_bucket,
    model_bucket=s3.Bucket.from_bucket_attributes(
        stack,
        "ModelBucket",
        bucket_name=bucket_name,
        account=model_account,
        encryption_key=kms.Key.from_key_arn(stack, "ModelKey", model_key),
    ),
)
network = TrainingNetwork(stack, "Network", storage_accounts=[model_account])
fleet = GpuFleet(
    stack,
    "Fleet",
    vpc=network.vpc,
    vpc_subnets=network.subnets,
    boundary=network.boundary,
    instance_types=["g5.12xlarge", "g5.4xlarge"],
    max_gpus=16,
    on_demand_base_gpus=1,
)
HorovodTraining(stack, "Training", storage=storage, engine=Engine.ec2(fleet), max_cost_usd=500)
app.synth()
