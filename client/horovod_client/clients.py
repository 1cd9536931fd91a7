"""The boto3 clients of one training, each made when it is first used."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient


def new_session() -> Session:
    """
    Make a session from the environment (AWS_PROFILE, AWS_REGION, …).

    boto3 is imported here, not above: it takes longer to load than everything else in this package.
    """
    from boto3.session import Session

    return Session()


class AwsClients:
    """
    Step Functions, S3 and DynamoDB, in one region.

    Args:
        region: Region of the clients that are made here.
        session: Credentials of the clients that are made here. Default: from the environment.
        stepfunctions: Used instead of a new client.
        s3: Used instead of a new client.
        dynamodb: Used instead of a new client.
    """

    def __init__(
        self,
        *,
        region: str,
        session: Session | None = None,
        stepfunctions: SFNClient | None = None,
        s3: S3Client | None = None,
        dynamodb: DynamoDBClient | None = None,
    ) -> None:
        self._region = region
        self._given_session = session
        self._given_stepfunctions = stepfunctions
        self._given_s3 = s3
        self._given_dynamodb = dynamodb

    @cached_property
    def stepfunctions(self) -> SFNClient:
        """Starts, describes and stops executions."""
        return self._given_stepfunctions or self._session.client("stepfunctions", region_name=self._region)

    @cached_property
    def s3(self) -> S3Client:
        """Takes scripts, holds data, models and receipts."""
        return self._given_s3 or self._session.client("s3", region_name=self._region)

    @cached_property
    def dynamodb(self) -> DynamoDBClient:
        """Holds the ledger."""
        return self._given_dynamodb or self._session.client("dynamodb", region_name=self._region)

    @cached_property
    def _session(self) -> Session:
        return self._given_session or new_session()
