"""The app turns settings into templates, and a wrong setting into one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App

from cdk_horovod import TORCH_PROFILE, NetworkMode
from stacks.settings import Settings
from support.synthesis import synthesise

pytestmark = pytest.mark.synth


def test_settings_come_from_the_context() -> None:
    """A setting of `cdk deploy -c horovod:KEY=VALUE` overrides its default, and the others stay."""
    # GIVEN context as the CLI gives it: texts
    app = App(
        context={
            "horovod:instance_types": "g6.12xlarge, g6.4xlarge",
            "horovod:max_gpus": "8",
            "horovod:network": "public",
            "horovod:max_cost_usd": "12.5",
            "horovod:availability_zones": "us-west-1a,us-west-1c",
            "horovod:endpoint_azs": "1",
            "horovod:session_manager": "true",
            "horovod:on_demand_prices": "g6.12xlarge=4.6, g6.4xlarge=1.32",
        }
    )
    # WHEN
    settings = Settings.from_context(app.node)
    # THEN
    assert settings == Settings(
        instance_types=("g6.12xlarge", "g6.4xlarge"),
        max_gpus=8,
        network=NetworkMode.PUBLIC,
        max_cost_usd=12.5,
        availability_zones=("us-west-1a", "us-west-1c"),
        endpoint_azs=1,
        session_manager=True,
        on_demand_prices=(("g6.12xlarge", 4.6), ("g6.4xlarge", 1.32)),
    )
    assert Settings.from_context(App().node).max_cost_usd is None


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("max_gpu", "8", "'horovod:max_gpu' is not a setting; the settings are instance_types, max_gpus, "),
        ("max_gpus", "many", "'horovod:max_gpus' cannot be 'many': "),
        ("network", "vpn", "'horovod:network' cannot be 'vpn': "),
        ("on_demand_prices", "g5.xlarge", "'horovod:on_demand_prices' cannot be 'g5.xlarge': "),
        ("max_cost_usd", "little", "'horovod:max_cost_usd' cannot be 'little': "),
    ],
)
def test_fails_when_a_setting_is_wrong(key: str, value: str, sentence: str) -> None:
    """A misspelt key or value is refused by name."""
    app = App(context={f"horovod:{key}": value})
    with pytest.raises(ValueError, match="horovod:") as refused:
        Settings.from_context(app.node)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"instance_types": ""}, "'instance_types' must hold at least one type, got none"),
        ({"max_gpus": 2}, "'max_gpus' must be at least 4, the largest weight, got 2"),
        ({"image_profile": "new"}, "'horovod:image_profile' must be default, newer or torch, got 'new'"),
        ({"max_azs": 0}, "'max_azs' must be from 1 to 6, got 0"),
        ({"max_cost_usd": -5}, "'max_cost_usd' must be more than 0 USD, got -5.0"),
    ],
)
def test_wrong_settings_end_the_app_in_one_line(settings: dict[str, object], sentence: str, tmp_path: Path) -> None:
    """A wrong setting ends `cdk synth` with one line, no traceback and no half-written output."""
    # WHEN
    said = synthesise(tmp_path / "cdk.out", settings=settings, check=False)
    # THEN
    assert said == f"{sentence}\n"
    assert not (tmp_path / "cdk.out" / "manifest.json").exists()


def test_settings_reach_the_training(tmp_path: Path) -> None:
    """Cost ceiling, reaper interval, alarms and image are deployed as the settings say."""
    # WHEN
    settings = {"max_cost_usd": 12.5, "reaper_minutes": 3, "dashboard": "false", "image_profile": "torch"}
    synthesise(tmp_path / "cdk.out", settings=settings)
    # THEN
    template = json.loads((tmp_path / "cdk.out" / "Training.template.json").read_text())
    kinds = [resource["Type"] for resource in template["Resources"].values()]
    schedules = [
        resource["Properties"].get("ScheduleExpression")
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::Events::Rule"
    ]
    assert '\\"max_cost_usd\\":12.5' in json.dumps(template["Outputs"])
    assert "rate(3 minutes)" in schedules
    assert kinds.count("AWS::CloudWatch::Alarm") == 6
    assert "AWS::CloudWatch::Dashboard" not in kinds
    (image,) = json.loads((tmp_path / "cdk.out" / "Training.assets.json").read_text())["dockerImages"].values()
    assert image["source"]["dockerBuildArgs"] == dict(TORCH_PROFILE)


def test_infrastructure_settings_reach_the_template(tmp_path: Path) -> None:
    """Zones, machine image, sessions, instance types and image profile are deployed as the settings say."""
    # WHEN
    settings = {
        "availability_zones": "us-west-1a,us-west-1c",
        "machine_image": "ami-0123456789abcdef0",
        "session_manager": "true",
        "instance_types": "p5.48xlarge",
        "on_demand_base_gpus": 8,
        "image_profile": "newer",
    }
    synthesise(tmp_path / "cdk.out", settings=settings)
    # THEN
    template = (tmp_path / "cdk.out" / "Training.template.json").read_text()
    subnets = [
        each["Properties"]["AvailabilityZone"]
        for each in json.loads(template)["Resources"].values()
        if each["Type"] == "AWS::EC2::Subnet"
    ]
    assert subnets == ["us-west-1a", "us-west-1c"]
    assert '"ImageId": "ami-0123456789abcdef0"' in template
    assert "ssmmessages:OpenDataChannel" in template


def test_dashboard_is_deployed_unless_told_otherwise(template: Mapping[str, Any]) -> None:
    """The app as it is deploys a dashboard of the training."""
    kinds = [resource["Type"] for resource in template["Resources"].values()]
    assert kinds.count("AWS::CloudWatch::Dashboard") == 1


@pytest.mark.every_engine
def test_every_finding_is_acknowledged(assembly: Path) -> None:
    """cdk-nag's AwsSolutions checks run on every synth of the app, and every finding is explained."""
    reports = json.loads((assembly / "validation-report.json").read_text())["pluginReports"]
    nag = [report for report in reports if report["pluginName"] == "AwsSolutions"]
    assert [(report["conclusion"], report["violations"]) for report in nag] == [("success", [])]
