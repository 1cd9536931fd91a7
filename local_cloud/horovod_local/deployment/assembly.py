"""A cloud assembly, the folder `cdk.out`, read as the CDK CLI reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from horovod_local.errors import LocalCloudError

MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class FileAsset:
    """
    A file asset: one file, or a zipped folder, that a stack expects in a bucket.

    Args:
        source: The file or folder.
        zipped: Whether *source* is a folder that is stored as a zip archive.
        bucket: Name of the bucket, with placeholders such as `${AWS::Region}`.
        key: S3 key, with the same placeholders.
    """

    source: Path
    zipped: bool
    bucket: str
    key: str


@dataclass(frozen=True, kw_only=True)
class AssembledStack:
    """
    One stack of an assembly.

    Args:
        artifact: Name of its artifact in the manifest.
        name: Name of the stack in CloudFormation.
        account: Account id, 12 digits; None if the stack is environment-agnostic.
        region: Region; None if the stack is environment-agnostic.
        template: Path of the template.
        parameters: Values of the template's parameters.
        depends_on: Artifacts that must be deployed first.
        files: File assets that it expects.
        images: Docker image assets that it expects, by the folders that they are built from.
    """

    artifact: str
    name: str
    account: str | None
    region: str | None
    template: Path
    parameters: dict[str, str]
    depends_on: tuple[str, ...]
    files: tuple[FileAsset, ...] = field(default=())
    images: tuple[str, ...] = field(default=())


def read_assembly(folder: Path) -> list[AssembledStack]:
    """
    Read all stacks of the assembly in *folder*, those of stages included, in an order that respects dependencies.

    Raises:
        LocalCloudError: If *folder* holds no assembly, or its stacks have a circular dependency.
    """
    stacks = {stack.artifact: stack for stack in _read(folder)}
    ordered: list[AssembledStack] = []
    waiting = dict(stacks)
    while waiting:
        free = [stack for stack in waiting.values() if not any(name in waiting for name in stack.depends_on)]
        if not free:
            raise LocalCloudError(f"the stacks {', '.join(waiting)} depend on each other in a circle")
        for stack in free:
            ordered.append(stack)
            del waiting[stack.artifact]
    return ordered


def _read(folder: Path) -> list[AssembledStack]:
    manifest_file = folder / MANIFEST
    try:
        artifacts: dict[str, Any] = json.loads(manifest_file.read_text(encoding="utf-8")).get("artifacts", {})
    except FileNotFoundError as error:
        raise LocalCloudError(f"{folder} holds no {MANIFEST}: synthesise the app first (cdk synth)") from error
    except (OSError, ValueError) as error:
        raise LocalCloudError(f"{manifest_file} cannot be read: {error}") from error
    stacks = []
    for name, artifact in artifacts.items():
        properties = artifact.get("properties", {})
        if artifact["type"] == "cdk:cloud-assembly":
            stacks += _read(folder / properties["directoryName"])
        if artifact["type"] == "aws:cloudformation:stack":
            stacks.append(_stack(folder, name, artifact, artifacts))
    return stacks


def _stack(folder: Path, name: str, artifact: dict[str, Any], artifacts: dict[str, Any]) -> AssembledStack:
    properties = artifact["properties"]
    account, _, region = artifact["environment"].removeprefix("aws://").partition("/")
    files: list[FileAsset] = []
    images: list[str] = []
    for dependency in artifact.get("dependencies", ()):
        other = artifacts.get(dependency, {})
        if other.get("type") == "cdk:asset-manifest":
            assets = json.loads((folder / other["properties"]["file"]).read_text(encoding="utf-8"))
            for asset in assets.get("files", {}).values():
                files += _files(folder, asset)
            images += [
                image["source"].get("directory", identity) for identity, image in assets.get("dockerImages", {}).items()
            ]
    return AssembledStack(
        artifact=name,
        name=properties.get("stackName", name),
        account=None if account == "unknown-account" else account,
        region=None if region == "unknown-region" else region,
        template=folder / properties["templateFile"],
        parameters=properties.get("parameters", {}),
        depends_on=tuple(artifact.get("dependencies", ())),
        files=tuple(files),
        images=tuple(images),
    )


def _files(folder: Path, asset: dict[str, Any]) -> list[FileAsset]:
    source = asset["source"]
    if "path" not in source:
        raise LocalCloudError(f"the asset {source} is made by an external program; the local cloud supports files only")
    return [
        FileAsset(
            source=folder / source["path"],
            zipped=source.get("packaging") == "zip",
            bucket=destination["bucketName"],
            key=destination["objectKey"],
        )
        for destination in asset["destinations"].values()
    ]
