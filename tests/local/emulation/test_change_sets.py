"""Change sets, against AWS's documented behaviour."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError


def deploy_by_change_set(stacks: Any, template: dict[str, Any]) -> dict[str, Any]:
    """Create a stack as the CDK CLI does."""
    name = f"stack-{uuid.uuid4()}"
    stacks.made.append(name)
    stacks.api.create_change_set(
        StackName=name, ChangeSetName="change", ChangeSetType="CREATE", TemplateBody=json.dumps(template)
    )
    stacks.api.execute_change_set(StackName=name, ChangeSetName="change")
    described: dict[str, Any] = stacks.describe(name)
    return described


def test_change_sets_give_outputs_and_exports(stacks: Any) -> None:
    """A stack made by a change set has outputs, and another stack can import what it exports."""
    # GIVEN
    exported = {"Value": {"Ref": "Bucket"}, "Export": {"Name": "the-bucket"}, "Description": "a bucket"}
    exporting = {"Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}, "Outputs": {"Bucket": exported}}
    importing = {
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {"Imported": {"Value": {"Fn::ImportValue": "the-bucket"}}},
    }

    # WHEN
    exporter = deploy_by_change_set(stacks, exporting)
    importer = deploy_by_change_set(stacks, importing)

    # THEN
    assert importer["outputs"]["Imported"] == exporter["outputs"]["Bucket"]
    assert [output["Description"] for output in exporter["Outputs"]] == ["a bucket"]


def test_deleting_a_missing_change_set_is_fine(stacks: Any) -> None:
    """Deleting a change set that does not exist succeeds."""
    # WHEN
    answer = stacks.api.delete_change_set(StackName="any", ChangeSetName="missing")

    # THEN
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_missing_change_sets_are_named_so(stacks: Any) -> None:
    """Describing a change set that does not exist answers ChangeSetNotFound."""
    # WHEN
    with pytest.raises(ClientError) as refused:
        stacks.api.describe_change_set(StackName="any", ChangeSetName="missing")

    # THEN
    assert refused.value.response["Error"]["Code"] == "ChangeSetNotFound"
