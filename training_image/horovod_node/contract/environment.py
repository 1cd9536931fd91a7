"""
The node's environment, read by `horovod_node.node.identity`.

User data writes it into `NODE_ENV_FILE`, and *Start nodes* into the `Environment` of a SageMaker job.
"""

from __future__ import annotations

from typing import Final

NODE_ENV_FILE: Final = "/etc/cdk-horovod/node.env"
"""
File that user data writes for the container; the local cloud reads the same lines from user data. An ECS task has no
environment of its own: it mounts the file's folder, and its agent reads the file.
"""

ENV_ENGINE: Final = "CDK_HOROVOD_ENGINE"
"""The engine that provides this node: one of `ENGINES`."""
ENV_LEDGER_TABLE: Final = "CDK_HOROVOD_LEDGER_TABLE"
"""Name of the ledger's DynamoDB table."""
ENV_FLEET: Final = "CDK_HOROVOD_FLEET"
"""The fleet of this node. Its lease names the run."""
ENV_LEASE_SECONDS: Final = "CDK_HOROVOD_LEASE_SECONDS"
"""Seconds without a valid lease after which the dead-man's switch terminates the node."""
ENV_ML_ROOT: Final = "CDK_HOROVOD_ML_ROOT"
"""
Folder of the SageMaker layout (`input`, `model`, `checkpoints`, …). Default: `DEFAULT_ML_ROOT`, or in a SageMaker job
`SAGEMAKER_ML_ROOT`.
"""

ENV_TRAINING: Final = "CDK_HOROVOD_TRAINING"
"""Name of the training, the dimension of its metrics."""
ENV_LOG_GROUP: Final = "CDK_HOROVOD_LOG_GROUP"
"""CloudWatch log group for the lines of the agent and its ranks, and for metrics. Default: they are not sent."""
ENV_ECHO: Final = "CDK_HOROVOD_ECHO"
"""`1`: ranks' lines that go to the log group are printed, too. Default: they are not."""
ENV_IMAGE: Final = "CDK_HOROVOD_IMAGE"
"""The container's image: with its digest if the boot script could find it, else as it was named."""
ENV_BOOTED_AT: Final = "CDK_HOROVOD_BOOTED_AT"
"""Epoch seconds at which the instance's kernel started."""
ENV_PULL_BEGAN_AT: Final = "CDK_HOROVOD_PULL_BEGAN_AT"
ENV_PULLED_AT: Final = "CDK_HOROVOD_PULLED_AT"
"""Epoch seconds at which the boot script had pulled the image."""

ENV_METADATA_ENDPOINT: Final = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""Address of the instance metadata service; the AWS SDKs read this variable, too. Default: EC2's link-local address."""

ENV_RUN_ID: Final = "CDK_HOROVOD_RUN_ID"
ENV_ATTEMPT: Final = "CDK_HOROVOD_ATTEMPT"
"""
The run's id and the number of the attempt for which a SageMaker job was created. Its nodes take part in no other
attempt: the next one has a job of its own.
"""

# The local engine sets all of these. A SageMaker job sets the market, which nothing in its containers tells. A machine
# without GPUs that emulates ECS or SageMaker sets the GPUs, and for ECS also the interface.
ENV_NODE_ID: Final = "CDK_HOROVOD_NODE_ID"
ENV_NODE_ADDRESS: Final = "CDK_HOROVOD_NODE_ADDRESS"
ENV_NODE_INTERFACE: Final = "CDK_HOROVOD_NODE_INTERFACE"
ENV_NODE_GPUS: Final = "CDK_HOROVOD_NODE_GPUS"
ENV_NODE_TYPE: Final = "CDK_HOROVOD_NODE_TYPE"
ENV_NODE_ZONE: Final = "CDK_HOROVOD_NODE_ZONE"
ENV_NODE_MARKET: Final = "CDK_HOROVOD_NODE_MARKET"

DEFAULT_ML_ROOT: Final = "/opt/ml"
SAGEMAKER_ML_ROOT: Final = "/tmp/cdk-horovod/ml"  # noqa: S108 - the only user of the container's large volume
"""
In a SageMaker job `/opt/ml` is the platform's, which writes `input/config` and uploads `model` and `output/data`, and
`/tmp` is scratch space (SageMaker developer guide, "SageMaker AI environment variables and the default paths for
training storage locations").
"""
