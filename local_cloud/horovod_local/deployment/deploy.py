"""
Deploys a cloud assembly without the CDK CLI and without a bootstrap stack.

Templates and assets are taken from `cdk.out` unchanged, so the stacks are those that the CLI would create, in a
fraction of the time. The CLI itself works with the local cloud, too.
"""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from botocore.exceptions import ClientError

from horovod_local.deployment.assembly import AssembledStack, FileAsset, read_assembly
from horovod_local.deployment.schedules import period_seconds
from horovod_local.errors import LocalCloudError
from horovod_local.shared.resource_types import ACCEPTED_WITHOUT_EFFECT

BOOTSTRAP_VERSION: Final = "33"
"""Version of the bootstrap stack, which templates check. Nothing else of that stack is needed here."""
STACK_SECONDS: Final = 120.0
"""Longest wait for a stack; far too long, since the local cloud creates a stack before it answers."""
CAPABILITIES: Final = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]

Outputs = dict[str, dict[str, str]]
"""Outputs by stack name and output key."""


class Clients(Protocol):
    """Makes a client of an AWS service in a Region of the local cloud."""

    def __call__(self, service: str, *, region: str) -> Any: ...


def deploy(
    assembly: Path,
    *,
    clients: Clients,
    endpoint: str,
    account: str,
    region: str,
    tell: Callable[[str], None] = print,
) -> Outputs:
    """
    Create or update every stack of *assembly*, in the order of their dependencies.

    Args:
        assembly: The folder `cdk.out`.
        clients: Makes the boto3 clients.
        endpoint: URL of the local cloud.
        account: The local cloud's account.
        region: Region of environment-agnostic stacks.
        tell: Called with one line of text for each thing that was accepted although it has no effect here.

    Raises:
        LocalCloudError: If the assembly cannot be read, or a stack failed; the message names resource and reason.
    """
    stacks = read_assembly(assembly)
    outputs: Outputs = {}
    for stack in stacks:
        if stack.account not in (None, account):
            raise LocalCloudError(
                f"the stack {stack.name} is for account {stack.account}, but the local cloud has only account "
                f"{account}: start it with --account {stack.account}"
            )
        target = _Target(clients=clients, endpoint=endpoint, account=account, region=stack.region or region)
        _report_accepted_without_effect(stack, tell)
        for asset in stack.files:
            target.publish(asset)
        outputs[stack.name] = target.deploy(stack)
    return outputs


class _Target:
    """One Region of the local cloud, as the target of a deployment."""

    def __init__(self, *, clients: Clients, endpoint: str, account: str, region: str) -> None:
        self._s3 = clients("s3", region=region)
        self._cloudformation = clients("cloudformation", region=region)
        self._ssm = clients("ssm", region=region)
        self._endpoint = endpoint
        self._region = region
        self._names = {"AWS::AccountId": account, "AWS::Region": region, "AWS::Partition": "aws"}

    def publish(self, asset: FileAsset) -> None:
        self._put(self._substituted(asset.bucket), self._substituted(asset.key), _content(asset))

    def deploy(self, stack: AssembledStack) -> dict[str, str]:
        text = stack.template.read_text(encoding="utf-8")
        self._prepare_bootstrap_version(json.loads(text))
        # By URL, because CloudFormation accepts at most 51,200 bytes of template in the request itself.
        bucket = self._substituted("horovod-local-templates-${AWS::AccountId}-${AWS::Region}")
        key = f"{stack.artifact}.json"
        self._put(bucket, key, text.encode())
        request = {
            "StackName": stack.name,
            "TemplateURL": f"{self._endpoint}/{bucket}/{key}",
            "Capabilities": CAPABILITIES,
            "Parameters": [{"ParameterKey": name, "ParameterValue": value} for name, value in stack.parameters.items()],
        }
        try:
            if self._exists(stack.name):
                self._cloudformation.update_stack(**request)
            else:
                self._cloudformation.create_stack(**request)
        except ClientError as error:
            raise LocalCloudError(f"the stack {stack.name} failed: {error.response['Error']['Message']}") from error
        return self._wait(stack.name)

    def _wait(self, name: str) -> dict[str, str]:
        until = time.monotonic() + STACK_SECONDS
        while True:
            stack = self._cloudformation.describe_stacks(StackName=name)["Stacks"][0]
            status = stack["StackStatus"]
            if status in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
                return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
            if not status.endswith("_IN_PROGRESS") or time.monotonic() > until:
                raise LocalCloudError(f"the stack {name} failed: {stack.get('StackStatusReason') or status}")
            time.sleep(0.1)

    def _exists(self, name: str) -> bool:
        """Whether there is a stack to update. A stack in ROLLBACK_COMPLETE can only be deleted, so it is deleted."""
        try:
            status = self._cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
        except ClientError:
            return False
        if status == "ROLLBACK_COMPLETE":
            self._cloudformation.delete_stack(StackName=name)
            return False
        return True

    def _prepare_bootstrap_version(self, template: dict[str, Any]) -> None:
        """Set the SSM parameter with the bootstrap version, under the name that the template's parameter has."""
        parameter = template.get("Parameters", {}).get("BootstrapVersion", {})
        if parameter.get("Default"):
            self._ssm.put_parameter(Name=parameter["Default"], Value=BOOTSTRAP_VERSION, Type="String", Overwrite=True)

    def _put(self, bucket: str, key: str, body: bytes) -> None:
        try:
            self._s3.head_bucket(Bucket=bucket)
        except ClientError:
            # S3 accepts no LocationConstraint for us-east-1.
            where = {"LocationConstraint": self._region}
            placed = {} if self._region == "us-east-1" else {"CreateBucketConfiguration": where}
            self._s3.create_bucket(Bucket=bucket, **placed)
        self._s3.put_object(Bucket=bucket, Key=key, Body=body)

    def _substituted(self, text: str) -> str:
        return re.sub(r"\$\{([^}]+)\}", lambda found: self._names[found[1]], text)


def _content(asset: FileAsset) -> bytes:
    try:
        if not asset.zipped:
            return asset.source.read_bytes()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(asset.source.rglob("*")):
                archive.write(path, path.relative_to(asset.source))
        return packed.getvalue()
    except OSError as error:
        raise LocalCloudError(f"the asset {asset.source} cannot be read: {error.strerror}") from error


def _report_accepted_without_effect(stack: AssembledStack, tell: Callable[[str], None]) -> None:
    try:
        template = json.loads(stack.template.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LocalCloudError(f"the template {stack.template} cannot be read: {error}") from error
    resources = template.get("Resources", {})
    for kind, count in sorted(Counter(resource["Type"] for resource in resources.values()).items()):
        if kind in ACCEPTED_WITHOUT_EFFECT:
            times = f" ({count})" if count > 1 else ""
            tell(f"{stack.name}: accepted without effect: {kind}{times}: {ACCEPTED_WITHOUT_EFFECT[kind]}")
    for name, resource in resources.items():
        schedule = resource.get("Properties", {}).get("ScheduleExpression")
        if resource["Type"] == "AWS::Events::Rule" and schedule and period_seconds(schedule) is None:
            tell(f"{stack.name}: accepted without effect: the schedule of {name}: only rate(…) fires")
    for image in stack.images:
        tell(f"{stack.name}: accepted without effect: Docker image {image}: not built, nodes run as processes")
