"""The boto3 clients of one training, each made when it is first used."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

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


class InjectedClients(TypedDict, total=False):
    """The boto3 clients that a caller may bring, in place of those that `AwsClients` makes."""

    stepfunctions: SFNClient
    s3: S3Client
    dynamodb: DynamoDBClient
    logs: CloudWatchLogsClient
    autoscaling: AutoScalingClient
    ec2: EC2Client
    pricing: PricingClient
    sts: STSClient
    servicequotas: ServiceQuotasClient


def new_session() -> Session:
    """
    Make a session from the environment (AWS_PROFILE, AWS_REGION, …).

    boto3 is imported here, not above: it takes longer to load than everything else in this package. Of itself it reads
    AWS_DEFAULT_REGION only, where the AWS CLI, every other SDK and AWS's own shells go by AWS_REGION first.
    """
    from boto3.session import Session

    return Session(region_name=os.environ.get("AWS_REGION") or None)


def pricing_region(region: str) -> str:
    """
    Name the region that answers for prices of all regions and is nearest: the Pricing API has three endpoints.

    Args:
        region: Region of the training.
    """
    nearest = {"eu": "eu-central-1", "ap": "ap-south-1"}
    return nearest.get(region.partition("-")[0], "us-east-1")


class AwsClients:
    """
    What the client calls AWS through, in one region.

    Args:
        region: Region of the clients that are made here.
        session: Credentials of the clients that are made here. Default: from the environment.
        injected: Used instead of new clients, by the names of `InjectedClients`.

    Raises:
        TypeError: If *injected* names a client that is not used here.
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
        """Starts, describes and stops executions."""
        return self._injected.get("stepfunctions") or self._session.client("stepfunctions", region_name=self._region)

    @cached_property
    def s3(self) -> S3Client:
        """Takes scripts, holds data, models and receipts."""
        return self._injected.get("s3") or self._session.client("s3", region_name=self._region)

    @cached_property
    def dynamodb(self) -> DynamoDBClient:
        """Holds the ledger."""
        return self._injected.get("dynamodb") or self._session.client("dynamodb", region_name=self._region)

    @cached_property
    def logs(self) -> CloudWatchLogsClient:
        """Holds what nodes and ranks print."""
        return self._injected.get("logs") or self._session.client("logs", region_name=self._region)

    @cached_property
    def autoscaling(self) -> AutoScalingClient:
        """Knows the instances that have been started and have not spoken yet."""
        return self._injected.get("autoscaling") or self._session.client("autoscaling", region_name=self._region)

    @cached_property
    def ec2(self) -> EC2Client:
        """Knows Spot prices and instance types."""
        return self._injected.get("ec2") or self._session.client("ec2", region_name=self._region)

    @cached_property
    def pricing(self) -> PricingClient:
        """
        Knows On-Demand prices.

        Starting a run waits for it, so it gives up soon: a network that lets nothing out to another Region is common.
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
        """Tells whose credentials these are."""
        return self._injected.get("sts") or self._session.client("sts", region_name=self._region)

    @cached_property
    def servicequotas(self) -> ServiceQuotasClient:
        """Tells how much of a kind of instance the account may have."""
        return self._injected.get("servicequotas") or self._session.client("service-quotas", region_name=self._region)

    @cached_property
    def _session(self) -> Session:
        return self._given_session or new_session()
