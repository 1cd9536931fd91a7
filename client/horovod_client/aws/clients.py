"""The boto3 clients of one training, each created on first use."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    from typing import Unpack

    from boto3.session import Session
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_pricing import PricingClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_service_quotas import ServiceQuotasClient
    from mypy_boto3_stepfunctions import SFNClient
    from mypy_boto3_sts import STSClient


class SageMakerClient(Protocol):
    """What this package uses of boto3's client for SageMaker, whose types are too large to be installed for it."""

    exceptions: Any

    def describe_training_job(self, *, TrainingJobName: str) -> dict[str, Any]:  # noqa: N803  # boto3's name
        """Describe a training job."""
        ...


class InjectedClients(TypedDict, total=False):
    """boto3 clients that a caller may pass instead of those that `AwsClients` creates."""

    stepfunctions: SFNClient
    s3: S3Client
    dynamodb: DynamoDBClient
    logs: CloudWatchLogsClient
    autoscaling: AutoScalingClient
    ec2: EC2Client
    pricing: PricingClient
    sts: STSClient
    servicequotas: ServiceQuotasClient
    sagemaker: SageMakerClient


def new_session() -> Session:
    """
    Create a session from the environment (AWS_PROFILE, AWS_REGION, …).

    boto3 itself reads only AWS_DEFAULT_REGION, while the AWS CLI and all other SDKs read AWS_REGION first. It is
    imported here, because it takes longer to load than everything else in this package.
    """
    from boto3.session import Session

    return Session(region_name=os.environ.get("AWS_REGION") or None)


def pricing_region(region: str) -> str:
    """
    Return the Region of the nearest Pricing API endpoint; each of the three has the prices of all Regions.

    Args:
        region: Region of the training.
    """
    nearest = {"eu": "eu-central-1", "ap": "ap-south-1"}
    return nearest.get(region.partition("-")[0], "us-east-1")


class AwsClients:
    """
    The boto3 clients that this package uses, in one Region.

    Args:
        region: Region of new clients.
        session: boto3 session of new clients. Default: a new one from the environment.
        injected: Clients to use instead of new ones, by the names of `InjectedClients`.

    Raises:
        TypeError: If *injected* has any other name.
    """

    def __init__(self, *, region: str, session: Session | None = None, **injected: Unpack[InjectedClients]) -> None:
        for name in injected:
            if name not in InjectedClients.__annotations__:
                raise TypeError(f"'{name}' must be one of {', '.join(InjectedClients.__annotations__)}")
        self._region = region
        self._given_session = session
        self._injected = injected

    @cached_property
    def stepfunctions(self) -> SFNClient:
        """Client for executions."""
        return self._injected.get("stepfunctions") or self._session.client("stepfunctions", region_name=self._region)

    @cached_property
    def s3(self) -> S3Client:
        """Client for scripts, data, models and receipts."""
        return self._injected.get("s3") or self._session.client("s3", region_name=self._region)

    @cached_property
    def dynamodb(self) -> DynamoDBClient:
        """Client for the ledger."""
        return self._injected.get("dynamodb") or self._session.client("dynamodb", region_name=self._region)

    @cached_property
    def logs(self) -> CloudWatchLogsClient:
        """Client for the output of agents and ranks."""
        return self._injected.get("logs") or self._session.client("logs", region_name=self._region)

    @cached_property
    def autoscaling(self) -> AutoScalingClient:
        """Client for instances that have started but not joined."""
        return self._injected.get("autoscaling") or self._session.client("autoscaling", region_name=self._region)

    @cached_property
    def ec2(self) -> EC2Client:
        """Client for Spot prices and instance types."""
        return self._injected.get("ec2") or self._session.client("ec2", region_name=self._region)

    @cached_property
    def pricing(self) -> PricingClient:
        """
        Client for On-Demand prices.

        Its time-outs are short, because the start of a run waits for it, and many networks block other Regions.
        """
        if "pricing" in self._injected:
            return self._injected["pricing"]
        from botocore.config import Config

        return self._session.client(
            "pricing",
            region_name=pricing_region(self._region),
            config=Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2}),
        )

    @cached_property
    def sts(self) -> STSClient:
        """Client for the identity of the credentials."""
        return self._injected.get("sts") or self._session.client("sts", region_name=self._region)

    @cached_property
    def servicequotas(self) -> ServiceQuotasClient:
        """Client for the account's quotas."""
        return self._injected.get("servicequotas") or self._session.client("service-quotas", region_name=self._region)

    @cached_property
    def sagemaker(self) -> SageMakerClient:
        """Client for training jobs whose nodes have not joined."""
        made: SageMakerClient = self._injected.get("sagemaker") or self._session.client(
            "sagemaker", region_name=self._region
        )
        return made

    @cached_property
    def _session(self) -> Session:
        return self._given_session or new_session()
