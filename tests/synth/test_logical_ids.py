"""Logical ids that may not change: CloudFormation replaces a resource whose logical id is another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.synth

STORAGE = {
    "StorageDataBucketB1B922FA": "AWS::S3::Bucket",
    "StorageKeyBAA9457B": "AWS::KMS::Key",
    "StorageLogBucket7C8550DC": "AWS::S3::Bucket",
    "StorageModelBucket83DEC8C9": "AWS::S3::Bucket",
}
NETWORK = {"NetworkFlowLogGroup4F8CEEEF": "AWS::Logs::LogGroup"}
TRAINING = {
    "AlarmsKey3C2381B3": "AWS::KMS::Key",
    "AlarmsTopic3A2DFEBA": "AWS::SNS::Topic",
    "TrainingLedgerTable4ED5AAB8": "AWS::DynamoDB::Table",
    "TrainingNodeLogs015A456B": "AWS::Logs::LogGroup",
    "TrainingStateMachineEAE34FB3": "AWS::StepFunctions::StateMachine",
    "TrainingCleanUpStateMachine7094BDE9": "AWS::StepFunctions::StateMachine",
    "TrainingReaperStateMachine7D22CA11": "AWS::StepFunctions::StateMachine",
    "TrainingWorkflowLogs102E40AF": "AWS::Logs::LogGroup",
}
CLUSTER = {"TrainingCluster4FD58CEB": "AWS::ECS::Cluster"}
KEPT = {
    ("ec2", "Storage"): STORAGE,
    ("ec2", "Training"): {**NETWORK, **TRAINING},
    ("ecs", "EcsTraining"): {**STORAGE, **NETWORK, **TRAINING, **CLUSTER},
    ("sagemaker", "SageMakerTraining"): {**STORAGE, **TRAINING},
}
"""
What holds data, and what people and their policies refer to, in the stacks of each engine's app: logical id to type.
"""
KINDS = {kind for ids in KEPT.values() for kind in ids.values()}


@pytest.mark.parametrize(("engine", "stack"), KEPT, indirect=["engine"])
def test_nothing_stateful_is_replaced(engine: str, stack: str, assembly: Path) -> None:
    """An update of a deployed stack loses no data, no history of executions and no subscription."""
    # WHEN
    resources = json.loads((assembly / f"{stack}.template.json").read_text())["Resources"]

    # THEN
    found = {id: item["Type"] for id, item in resources.items() if item["Type"] in KINDS}
    assert found == KEPT[engine, stack]
