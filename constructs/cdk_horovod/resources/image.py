"""The container image that nodes run."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from aws_cdk import Stack, Token
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_iam as iam

from cdk_horovod.acknowledgements import acknowledge
from horovod_node import contract

if TYPE_CHECKING:
    from collections.abc import Callable

    from constructs import Construct

_ECR_URI: Final = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?"
    r"/(?P<repository>[a-z0-9][a-z0-9._/-]*)(:(?P<tag>[\w.-]{1,128})|@(?P<digest>sha256:[0-9a-f]{64}))"
)
"""An image URI. Sources: Amazon ECR User Guide, "Pulling an image"; API Reference, CreateRepository and PutImage."""

NEWER_PROFILE: Final[Mapping[str, str]] = MappingProxyType(
    {"REQUIREMENTS": "requirements-newer.txt", "TF_USE_LEGACY_KERAS": "1"}
)
"""Build arguments of the training image's `newer` profile, whose TensorFlow has code for Hopper: P5, P5e and P5en."""

TORCH_PROFILE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "REQUIREMENTS": "requirements-torch.txt",
        "BUILD_REQUIREMENTS": "requirements-torch-build.txt",
        "CUDA_IMAGE": "debian:bookworm-slim",
        "HOROVOD_BUILD_CUDA_CC_LIST": "75,80,86,89,90",
    }
)
"""Build arguments of the training image's `torch` profile: PyTorch instead of TensorFlow; for all types except P3."""

_IN_THE_WHEEL: Final = Path(__file__).resolve().parents[1] / "training_image"
_IN_A_CHECKOUT: Final = Path(contract.__file__).resolve().parents[2]
"""Where the agent is in a checkout, and so in an editable installation: in the folder with its Dockerfile."""

_PULL_ACTIONS: Final = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")


@dataclass(frozen=True, kw_only=True)
class TrainingImageConfig:
    """
    An image, bound to a construct tree.

    Args:
        uri: URI of the image for `docker pull`; may contain CDK tokens.
        grant_pull: Function that allows a role to pull this image.
    """

    uri: str
    grant_pull: Callable[[iam.IRole], None]


class TrainingImage(ABC):
    """
    The image that every node runs: this library's own, one built from a directory, or an existing one in Amazon ECR.

    Other registries are not supported, because nodes in isolated subnets cannot reach them.
    """

    @staticmethod
    def from_profile(profile: Mapping[str, str] | None = None) -> TrainingImage:
        """
        Build this library's own image when the app is deployed, for x86-64.

        Its Dockerfile, locked requirements and agent are in the installed package, and so are of the same version as
        the constructs.

        Args:
            profile: `NEWER_PROFILE`, `TORCH_PROFILE`, or build arguments of your own; the head of
                `training_image/Dockerfile` lists them. Default: TensorFlow 2.15, for all types up to P4de.
        """
        packaged = _IN_THE_WHEEL if _IN_THE_WHEEL.is_dir() else _IN_A_CHECKOUT
        return TrainingImage.from_asset(packaged, build_args=profile)

    @staticmethod
    def from_asset(directory: str | Path, *, build_args: Mapping[str, str] | None = None) -> TrainingImage:
        """
        Build the image from a Dockerfile of your own when the app is deployed, for x86-64.

        Args:
            directory: Folder with the `Dockerfile` and the files that it copies.
            build_args: Build arguments by name. Default: those of the Dockerfile.

        Raises:
            ValueError: If *directory* has no Dockerfile.
        """
        if not (Path(directory) / "Dockerfile").is_file():
            raise ValueError(f"'directory' must hold a file named Dockerfile, got {directory}")
        return _AssetImage(directory=Path(directory), build_args=dict(build_args or {}))

    @staticmethod
    def from_ecr(repository: ecr.IRepository, *, tag: str) -> TrainingImage:
        """
        Use an image of a repository of this app, or of an imported repository.

        Args:
            repository: The repository. If it is in another account, its policy must allow this account to pull.
            tag: Tag or digest (`sha256:…`) of the image.
        """
        return _EcrImage(repository=repository, tag=tag)

    @staticmethod
    def from_uri(uri: str) -> TrainingImage:
        """
        Use an image in ECR by its URI.

        Args:
            uri: `ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG`, or `@sha256:DIGEST` in place of the tag.

        Raises:
            ValueError: If *uri* has another form. The tag is required, because `latest` changes.
        """
        if Token.is_unresolved(uri):
            raise ValueError("'uri' must be known when the app is synthesised; use TrainingImage.from_ecr instead")
        found = _ECR_URI.fullmatch(uri)
        if found is None:
            raise ValueError(
                "'uri' must be an image in Amazon ECR, ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG or "
                f"@sha256:DIGEST, got {uri}"
            )
        return _UriImage(uri=uri, account=found["account"], region=found["region"], repository_name=found["repository"])

    @property
    def tensorflow(self) -> tuple[int, ...] | None:
        """Version of the image's TensorFlow, such as `(2, 15, 1)`; None if it is not known at synthesis."""
        return None

    @property
    def torch(self) -> tuple[int, ...] | None:
        """Version of the image's PyTorch, such as `(2, 13, 0)`; None if it is not known at synthesis."""
        return None

    @abstractmethod
    def bind(self, scope: Construct) -> TrainingImageConfig:
        """
        Create the image's resources in *scope*.

        Args:
            scope: Construct that owns the image; it can own only one.
        """


@dataclass(frozen=True, kw_only=True)
class _AssetImage(TrainingImage):
    directory: Path
    build_args: Mapping[str, str]

    @property
    def tensorflow(self) -> tuple[int, ...] | None:
        return self._required("tensorflow(?:-cpu)?")

    @property
    def torch(self) -> tuple[int, ...] | None:
        return self._required("torch")

    def _required(self, package: str) -> tuple[int, ...] | None:
        """Return a package's version in the requirements file that the Dockerfile's argument REQUIREMENTS names."""
        dockerfile = (self.directory / "Dockerfile").read_text(encoding="utf-8")
        default = re.search(r"^ARG REQUIREMENTS=(\S+)$", dockerfile, re.MULTILINE)
        name = self.build_args.get("REQUIREMENTS", default[1] if default else "")
        if not name or not (self.directory / name).is_file():
            return None
        requirements = (self.directory / name).read_text(encoding="utf-8")
        found = re.search(rf"^{package}==(\d+(?:\.\d+)*)", requirements, re.MULTILINE)
        return tuple(map(int, found[1].split("."))) if found else None

    def bind(self, scope: Construct) -> TrainingImageConfig:
        asset = ecr_assets.DockerImageAsset(
            scope,
            "Image",
            directory=str(self.directory),
            build_args=dict(self.build_args),
            platform=ecr_assets.Platform.LINUX_AMD64,
        )
        return _config(scope, uri=asset.image_uri, repository_arn=asset.repository.repository_arn)


@dataclass(frozen=True, kw_only=True)
class _EcrImage(TrainingImage):
    repository: ecr.IRepository
    tag: str

    def bind(self, scope: Construct) -> TrainingImageConfig:
        uri = self.repository.repository_uri_for_tag_or_digest(self.tag)
        return _config(scope, uri=uri, repository_arn=self.repository.repository_arn)


@dataclass(frozen=True, kw_only=True)
class _UriImage(TrainingImage):
    uri: str
    account: str
    region: str
    repository_name: str

    def bind(self, scope: Construct) -> TrainingImageConfig:
        arn = Stack.of(scope).format_arn(
            service="ecr",
            region=self.region,
            account=self.account,
            resource="repository",
            resource_name=self.repository_name,
        )
        return _config(scope, uri=self.uri, repository_arn=arn)


def _config(scope: Construct, *, uri: str, repository_arn: str) -> TrainingImageConfig:
    # A separate policy, so that the finding about "*" is accepted for it only. `Repository.grant_pull` would add the
    # statement to the role's default policy, where every other "*" would be accepted, too.
    policy = iam.Policy(
        scope,
        "PullImage",
        statements=[
            iam.PolicyStatement(actions=["ecr:GetAuthorizationToken"], resources=["*"]),
            iam.PolicyStatement(actions=list(_PULL_ACTIONS), resources=[repository_arn]),
        ],
    )
    acknowledge(
        policy,
        rule="IAM5[Resource::*]",
        reason="ecr:GetAuthorizationToken supports no resource-level permission (Service Authorization Reference).",
    )
    return TrainingImageConfig(uri=uri, grant_pull=policy.attach_to_role)
