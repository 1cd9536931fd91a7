"""`TrainingImage`: where the image comes from, and who may pull it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Aws, CfnOutput, Stack
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam

from cdk_horovod import TrainingImage
from support.construct_stacks import Stacks, flat, synthesise_validated

pytestmark = pytest.mark.synth

REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
DIGEST = f"sha256:{'0a' * 32}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training_image")
    (folder / "Dockerfile").write_text("FROM scratch\n")
    return folder


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, directory: Path) -> Stacks:
    def build(app: App) -> None:
        repository = ecr.Repository(Stack(app, "Repository"), "Repository")
        images = {
            "Asset": TrainingImage.from_asset(directory, build_args={"CUDA": "12.2"}),
            "Ecr": TrainingImage.from_ecr(repository, tag="1.4"),
            "Uri": TrainingImage.from_uri(f"{REGISTRY}/team/train:1.4"),
            "China": TrainingImage.from_uri(f"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/train@{DIGEST}"),
        }
        for name, image in images.items():
            stack = Stack(app, name)
            config = image.bind(stack)
            for role in ("Node", "Other"):
                config.grant_pull(iam.Role(stack, role, assumed_by=iam.ServicePrincipal("ec2.amazonaws.com")))
            CfnOutput(stack, "Address", value=config.uri)

    return synthesise_validated(tmp_path_factory.mktemp("image"), build)


def uri(stacks: Stacks, stack: str) -> Any:
    return stacks.templates[stack].to_json()["Outputs"]["Address"]["Value"]


def test_address_is_what_was_given(stacks: Stacks) -> None:
    """An image by address is pulled from that address, by tag or by digest."""
    assert uri(stacks, "Uri") == f"{REGISTRY}/team/train:1.4"
    assert uri(stacks, "China") == f"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/train@{DIGEST}"


def test_repository_and_tag_make_the_address(stacks: Stacks) -> None:
    """An image of a repository in the app is named by the repository and a tag."""
    assert flat(uri(stacks, "Ecr")).endswith(":1.4")


def test_asset_is_built_for_x86_64(stacks: Stacks) -> None:
    """The image is built at deployment, from the given folder, with the given arguments."""
    # WHEN
    (image,) = json.loads((stacks.folder / "Asset.assets.json").read_text())["dockerImages"].values()

    # THEN
    assert image["source"]["dockerBuildArgs"] == {"CUDA": "12.2"}
    assert image["source"]["platform"] == "linux/amd64"


@pytest.mark.parametrize(
    ("stack", "repository"),
    [
        ("Asset", r":repository/cdk-hnb659fds-container-assets-${AWS::AccountId}-${AWS::Region}"),
        ("Ecr", "Repository:ExportsOutputFnGetAttRepository"),
        ("Uri", "arn:AWS::Partition:ecr:eu-west-1:123456789012:repository/team/train"),
        ("China", "arn:AWS::Partition:ecr:cn-north-1:123456789012:repository/train"),
    ],
)
def test_roles_may_pull_this_image_only(stacks: Stacks, stack: str, repository: str) -> None:
    """Pulling is allowed from the image's own repository; only the login, which has no resource, is not bound to it."""
    # WHEN
    statements = {
        flat(statement["Resource"]): statement["Action"] for statement in stacks.statements(stack, role="Node")
    }

    # THEN
    (arn,) = statements.keys() - {"*"}
    assert repository in arn
    assert statements == {
        "*": "ecr:GetAuthorizationToken",
        arn: ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"],
    }
    assert list(stacks.statements(stack, role="Other")) == list(stacks.statements(stack, role="Node"))


def test_only_the_login_is_acknowledged(stacks: Stacks) -> None:
    """The acknowledgement of "*" covers the image's own policy and no other."""
    assert {(rule, path) for rule, path in stacks.accepted if "Resource::*" in rule} == {
        ("AwsSolutions-IAM5[Resource::*]", f"{stack}/PullImage/Resource") for stack in ("Asset", "Ecr", "Uri", "China")
    }


def test_fails_when_there_is_no_dockerfile(tmp_path: Path) -> None:
    """A wrong folder is found at synthesis, not by Docker."""
    with pytest.raises(ValueError, match=f"'directory' must hold a file named Dockerfile, got {tmp_path}"):
        TrainingImage.from_asset(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        "horovod/horovod:latest",
        f"{REGISTRY}/train",
        f"{REGISTRY}/train:",
        f"{REGISTRY}/Train:1",
        f"https://{REGISTRY}/train:1",
        "public.ecr.aws/deep-learning-containers/train:1",
        f"{REGISTRY}/train@sha256:12",
    ],
)
def test_fails_when_the_address_is_not_of_ecr(wrong: str) -> None:
    """An address outside Amazon ECR, or with a tag that moves, is refused."""
    with pytest.raises(ValueError, match=rf"'uri' must be an image in Amazon ECR, .*, got {wrong}"):
        TrainingImage.from_uri(wrong)


def test_fails_when_the_address_is_a_token() -> None:
    """A token is refused as an address, because the repository cannot be read from it."""
    with pytest.raises(ValueError, match="'uri' must be known when the app is synthesised"):
        TrainingImage.from_uri(f"{Aws.ACCOUNT_ID}.dkr.ecr.eu-west-1.amazonaws.com/train:1")
