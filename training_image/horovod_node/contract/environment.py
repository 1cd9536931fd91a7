"""The node's environment: written by user data into `NODE_ENV_FILE`, read by `horovod_node.node.identity`."""

from __future__ import annotations

from typing import Final

NODE_ENV_FILE: Final = "/etc/cdk-horovod/node.env"
"""Where user data leaves the environment for the container; the local cloud reads the same lines out of user data."""

ENV_ENGINE: Final = "CDK_HOROVOD_ENGINE"
"""What provides this node: one of `ENGINES`."""
ENV_LEDGER_TABLE: Final = "CDK_HOROVOD_LEDGER_TABLE"
"""Name of the ledger's DynamoDB table."""
ENV_FLEET: Final = "CDK_HOROVOD_FLEET"
"""The fleet that this node belongs to; finds the lease, and through it the run."""
ENV_LEASE_SECONDS: Final = "CDK_HOROVOD_LEASE_SECONDS"
"""The dead-man's switch takes the node out after this long without a valid lease."""
ENV_ML_ROOT: Final = "CDK_HOROVOD_ML_ROOT"
"""Folder of the SageMaker layout (`input`, `model`, `checkpoints`, …). Default: `/opt/ml`."""

ENV_TRAINING: Final = "CDK_HOROVOD_TRAINING"
"""Name of the training: dimension of its metrics."""
ENV_LOG_GROUP: Final = "CDK_HOROVOD_LOG_GROUP"
"""CloudWatch log group that the agent sends its own lines, its ranks' and the metrics to. Default: they go nowhere."""
ENV_ECHO: Final = "CDK_HOROVOD_ECHO"
"""Whether ranks' lines that go to the log group are printed, too: `1`. Default: they are not."""
ENV_IMAGE: Final = "CDK_HOROVOD_IMAGE"
"""The image that the container runs: with its digest where the boot script could tell it, else as it was named."""
ENV_BOOTED_AT: Final = "CDK_HOROVOD_BOOTED_AT"
"""Epoch seconds at which the machine's kernel started."""
ENV_PULL_BEGAN_AT: Final = "CDK_HOROVOD_PULL_BEGAN_AT"
ENV_PULLED_AT: Final = "CDK_HOROVOD_PULLED_AT"
"""Epoch seconds between which the boot script pulled the image."""

ENV_METADATA_ENDPOINT: Final = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""Address of the instance metadata service; the AWS SDKs' own name. Default: EC2's link-local address."""

# What instance metadata tells an EC2 node, an engine without it puts into the environment.
ENV_NODE_ID: Final = "CDK_HOROVOD_NODE_ID"
ENV_NODE_ADDRESS: Final = "CDK_HOROVOD_NODE_ADDRESS"
ENV_NODE_INTERFACE: Final = "CDK_HOROVOD_NODE_INTERFACE"
ENV_NODE_GPUS: Final = "CDK_HOROVOD_NODE_GPUS"
ENV_NODE_TYPE: Final = "CDK_HOROVOD_NODE_TYPE"
ENV_NODE_ZONE: Final = "CDK_HOROVOD_NODE_ZONE"
ENV_NODE_MARKET: Final = "CDK_HOROVOD_NODE_MARKET"

DEFAULT_ML_ROOT: Final = "/opt/ml"
