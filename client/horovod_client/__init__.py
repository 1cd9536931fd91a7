"""
Train on your own GPU fleet from Python, in two lines::

    run = TrainingClient.from_stack("Training").fit("train.py", gpus=16, data="s3://bucket/digits/")
    print(run.wait().model_uri)

It needs boto3 and the name of the stack with a `HorovodTraining`, and does not import the CDK. The command line tool
`cdk-horovod` (`horovod_client.cli`) uses the same API.
"""

from horovod_client.aws.connection import Connection, Fleet
from horovod_client.client import TrainingClient
from horovod_client.errors import (
    ConnectionNotFound,
    HorovodClientError,
    InvalidInput,
    LogsNotFound,
    ModelNotFound,
    PricesMissing,
    PricesUnknown,
    ReceiptNotFound,
    RunEnded,
    RunFailed,
    RunNotFound,
    ScriptDoubtful,
)
from horovod_client.prices.estimate import CostEstimate, FleetEstimate, TypeEstimate, UsdRange
from horovod_client.results.log_line import LogLine
from horovod_client.results.receipt import receipt_schema, render_receipt
from horovod_client.run import Run
from horovod_client.status.capacity import CapacitySearch, LostAttempt
from horovod_client.status.run_status import Holder, JobStatus, NodeStatus, RunStatus, Spend, TrainingProgress
from horovod_client.status.runs import RunSummary, list_runs
from horovod_client.status.waiting import explain_waiting

__all__ = [
    "CapacitySearch",
    "Connection",
    "ConnectionNotFound",
    "CostEstimate",
    "Fleet",
    "FleetEstimate",
    "Holder",
    "HorovodClientError",
    "InvalidInput",
    "JobStatus",
    "LogLine",
    "LogsNotFound",
    "LostAttempt",
    "ModelNotFound",
    "NodeStatus",
    "PricesMissing",
    "PricesUnknown",
    "ReceiptNotFound",
    "Run",
    "RunEnded",
    "RunFailed",
    "RunNotFound",
    "RunStatus",
    "RunSummary",
    "ScriptDoubtful",
    "Spend",
    "TrainingClient",
    "TrainingProgress",
    "TypeEstimate",
    "UsdRange",
    "explain_waiting",
    "list_runs",
    "receipt_schema",
    "render_receipt",
]
