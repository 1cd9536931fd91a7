"""Cloud assemblies deployed into the local cloud: here of plain templates, without the CDK."""

from __future__ import annotations

import json
import uuid
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from horovod_local import LocalCloudError

BOOTSTRAP = {
    "BootstrapVersion": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/cdk-bootstrap/own/version"}
}


class Assembly:
    """Writes a folder as the CDK does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._artifacts: dict[str, Any] = {}

    def stack(
        self,
        template: dict[str, Any],
        *,
        name: str | None = None,
        depends_on: tuple[str, ...] = (),
        environment: str = "aws://unknown-account/unknown-region",
        assets: dict[str, Any] | None = None,
    ) -> str:
        """Add a stack; return its name."""
        name = name or f"stack-{uuid.uuid4()}"
        (self.folder / f"{name}.template.json").write_text(json.dumps(template))
        (self.folder / f"{name}.assets.json").write_text(json.dumps(assets or {}))
        self._artifacts[f"{name}.assets"] = {
            "type": "cdk:asset-manifest",
            "properties": {"file": f"{name}.assets.json"},
        }
        self._artifacts[name] = {
            "type": "aws:cloudformation:stack",
            "environment": environment,
            "properties": {"templateFile": f"{name}.template.json"},
            "dependencies": [*depends_on, f"{name}.assets"],
        }
        self.write()
        return name

    def write(self) -> None:
        """Write the manifest."""
        (self.folder / "manifest.json").write_text(json.dumps({"version": "55.0.0", "artifacts": self._artifacts}))


@pytest.fixture
def assembly(tmp_path: Path) -> Assembly:
    """An empty assembly."""
    return Assembly(tmp_path)


def bucket_template(**outputs: Any) -> dict[str, Any]:
    """A template with a bucket and *outputs*."""
    return {"Parameters": BOOTSTRAP, "Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}}, "Outputs": outputs}


def test_stacks_are_deployed_in_order(cloud: Any, assembly: Assembly) -> None:
    """Stacks are deployed after those they depend on, and import their exports; descriptions are kept."""
    # GIVEN
    export = f"export-{uuid.uuid4()}"
    storage = f"storage-{uuid.uuid4()}"
    imported = {"Value": {"Fn::ImportValue": export}}
    user = assembly.stack(bucket_template(Imported=imported), depends_on=(storage,))
    exported = {"Value": {"Ref": "Bucket"}, "Export": {"Name": export}, "Description": "the bucket"}
    assembly.stack(bucket_template(Name=exported), name=storage)

    # WHEN
    outputs = cloud.deploy(assembly.folder, tell=lambda _line: None)

    # THEN
    assert outputs[user] == {"Imported": outputs[storage]["Name"]}
    described = cloud.client("cloudformation").describe_stacks(StackName=storage)["Stacks"][0]["Outputs"]
    assert [output["Description"] for output in described] == ["the bucket"]


def test_a_second_deployment_updates(cloud: Any, assembly: Assembly) -> None:
    """Deploying again changes what has changed and keeps the rest."""
    # GIVEN
    name = assembly.stack(bucket_template(Name={"Value": {"Ref": "Bucket"}}))
    first = cloud.deploy(assembly.folder, tell=lambda _line: None)
    assembly.stack(bucket_template(Name={"Value": {"Ref": "Bucket"}}, More={"Value": "more"}), name=name)

    # WHEN
    second = cloud.deploy(assembly.folder, tell=lambda _line: None)

    # THEN
    assert second[name] == {**first[name], "More": "more"}


def test_assets_are_published(cloud: Any, assembly: Assembly) -> None:
    """Files and zipped folders are in their buckets, names filled in, before the stack that needs them."""
    # GIVEN
    (assembly.folder / "plain.txt").write_text("plain")
    (assembly.folder / "folder").mkdir()
    (assembly.folder / "folder" / "inner.txt").write_text("inner")
    bucket = "assets-${AWS::AccountId}-${AWS::Region}"
    files = {
        name: {
            "source": {"path": path, "packaging": packaging},
            "destinations": {"here": {"bucketName": bucket, "objectKey": name}},
        }
        for name, path, packaging in (("plain", "plain.txt", "file"), ("zipped", "folder", "zip"))
    }
    assembly.stack(bucket_template(), assets={"files": files})

    # WHEN
    cloud.deploy(assembly.folder, tell=lambda _line: None)

    # THEN
    s3 = cloud.client("s3")
    stored = {
        name: s3.get_object(Bucket="assets-123456789012-eu-west-1", Key=name)["Body"].read()
        for name in ("plain", "zipped")
    }
    assert stored["plain"] == b"plain"
    assert zipfile.ZipFile(BytesIO(stored["zipped"])).read("inner.txt") == b"inner"


def test_large_templates_are_deployed(cloud: Any, assembly: Assembly) -> None:
    """A template beyond the 51,200 bytes that a request may carry is deployed."""
    # GIVEN
    text = {"Value": "x" * 60_000}
    name = assembly.stack(bucket_template(Text=text))

    # WHEN
    outputs = cloud.deploy(assembly.folder, tell=lambda _line: None)

    # THEN
    assert len(outputs[name]["Text"]) == 60_000


def test_stacks_go_to_their_region(cloud: Any, assembly: Assembly) -> None:
    """A stack that names a region is deployed there, into the cloud's own account."""
    # GIVEN
    where = {"Value": {"Fn::Sub": "${AWS::AccountId} ${AWS::Region}"}}
    name = assembly.stack(bucket_template(Where=where), environment="aws://123456789012/us-west-2")

    # WHEN
    outputs = cloud.deploy(assembly.folder, tell=lambda _line: None)

    # THEN
    assert outputs[name] == {"Where": "123456789012 us-west-2"}


def test_what_has_no_effect_is_told(cloud: Any, assembly: Assembly) -> None:
    """Resources and images that nothing here acts on are named; nothing is left out silently."""
    # GIVEN
    reaper = {"Type": "AWS::Events::Rule", "Properties": {"ScheduleExpression": "rate(5 minutes)", "Targets": []}}
    nightly = {"Type": "AWS::Events::Rule", "Properties": {"ScheduleExpression": "cron(0 0 * * ? *)", "Targets": []}}
    template = {
        "Resources": {
            "Metadata": {"Type": "AWS::CDK::Metadata"},
            "One": {"Type": "AWS::CloudWatch::Alarm"},
            "Two": {"Type": "AWS::CloudWatch::Alarm"},
            "Reaper": reaper,
            "Nightly": nightly,
        }
    }
    name = assembly.stack(template, assets={"dockerImages": {"hash": {"source": {"directory": "asset.hash"}}}})
    lines: list[str] = []

    # WHEN
    cloud.deploy(assembly.folder, tell=lines.append)

    # THEN
    assert lines == [
        f"{name}: accepted without effect: AWS::CDK::Metadata: tells AWS which constructs were used",
        f"{name}: accepted without effect: AWS::CloudWatch::Alarm (2): alarms are not evaluated",
        f"{name}: accepted without effect: the schedule of Nightly: only rate(…) fires",
        f"{name}: accepted without effect: Docker image asset.hash: not built, nodes run as processes",
    ]


def test_fails_when_a_resource_fails(cloud: Any, assembly: Assembly) -> None:
    """A stack that fails is told in one sentence with the resource and the reason; fixed, it can be deployed again."""
    # GIVEN
    machine = {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {"RoleArn": "nobody", "DefinitionString": "{}"},
    }
    name = assembly.stack({"Resources": {"Machine": machine}})

    # WHEN
    with pytest.raises(LocalCloudError) as failed:
        cloud.deploy(assembly.folder, tell=lambda _line: None)
    assembly.stack(bucket_template(Word={"Value": "fixed"}), name=name)
    outputs = cloud.deploy(assembly.folder, tell=lambda _line: None)

    # THEN
    assert str(failed.value).startswith(f"the stack {name} failed: Machine (AWS::StepFunctions::StateMachine): ")
    assert outputs == {name: {"Word": "fixed"}}


def test_fails_when_a_type_is_unknown(cloud: Any, assembly: Assembly) -> None:
    """A stack with a type that cannot be created is refused, naming type and resource."""
    # GIVEN
    assembly.stack({"Resources": {"Clean": {"Type": "Custom::S3AutoDeleteObjects"}}}, name="Refused")

    # WHEN, THEN
    with pytest.raises(LocalCloudError, match=r"the stack Refused failed: .*\[Custom::S3AutoDeleteObjects\].* Clean"):
        cloud.deploy(assembly.folder, tell=lambda _line: None)


def test_fails_for_another_account(cloud: Any, assembly: Assembly) -> None:
    """A stack for an account that the cloud does not have is refused, saying what to do."""
    # GIVEN
    name = assembly.stack(bucket_template(), environment="aws://999999999999/eu-west-1")

    # WHEN, THEN
    with pytest.raises(LocalCloudError, match=f"{name} is for account 999999999999, .* 123456789012: .*--account"):
        cloud.deploy(assembly.folder, tell=lambda _line: None)


def test_fails_without_an_assembly(cloud: Any, tmp_path: Path) -> None:
    """A folder that is no assembly is refused, saying what to do."""
    # WHEN, THEN
    with pytest.raises(LocalCloudError, match=r"holds no manifest.json: synthesise the app first \(cdk synth\)"):
        cloud.deploy(tmp_path)


def test_fails_when_stacks_depend_in_a_circle(cloud: Any, assembly: Assembly) -> None:
    """Stacks that depend on each other cannot be deployed."""
    # GIVEN
    assembly.stack(bucket_template(), name="First", depends_on=("Second",))
    assembly.stack(bucket_template(), name="Second", depends_on=("First",))

    # WHEN, THEN
    with pytest.raises(LocalCloudError, match="the stacks First, Second depend on each other in a circle"):
        cloud.deploy(assembly.folder)
