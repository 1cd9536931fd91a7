"""What the doctor says of an account that is well, and of what is wrong with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from cdk_horovod.engines.provider_words import AUTO_SCALING_WORDS
from horovod_client import Fleet
from horovod_client.doctor.check import FAIL, OK, WARN, Check
from horovod_client.doctor.examination import Doctor
from horovod_client.doctor.job_quotas import QUOTA_NAMES, check_job_quotas
from horovod_client.doctor.quotas import QUOTA_CODES, check_quotas

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
FLEET = Fleet(id="Fleet", max_gpus=16, gpu_step=4, types={"g5.12xlarge": 4, "g5.48xlarge": 8})


@dataclass
class Services:
    """Stubbed clients, made when they are asked for."""

    clients: dict[str, Any] = field(default_factory=dict)

    def stub(self, service: str) -> Stubber:
        stubber = Stubber(self.make(service))
        stubber.activate()
        return stubber

    def make(self, service: str, *, region_name: str = "eu-west-1") -> Any:
        if service not in self.clients:
            self.clients[service] = boto3.client(
                service, region_name=region_name, aws_access_key_id="testing", aws_secret_access_key="testing"
            )
        return self.clients[service]

    def sign_in(self, *, at: float = NOW) -> None:
        date = format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)
        self.stub("sts").add_response(
            "get_caller_identity",
            {
                "Arn": "arn:aws:iam::123456789012:role/Trainer",
                "ResponseMetadata": {"HTTPHeaders": {"date": date}},
            },
        )

    def doctor(self, region: str | None = "eu-west-1") -> Doctor:
        return Doctor(make_client=self.make, region=region, now=lambda: NOW)


@pytest.fixture
def services() -> Services:
    """Have no service answer yet."""
    return Services()


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def quota_checks(services: Services, quotas: Mapping[str, float], fleet: Fleet = FLEET) -> list[Check]:
    services.stub("ec2").add_response(
        "describe_instance_types",
        {
            "InstanceTypes": [
                {"InstanceType": "g5.12xlarge", "VCpuInfo": {"DefaultVCpus": 48}},
                {"InstanceType": "g5.48xlarge", "VCpuInfo": {"DefaultVCpus": 192}},
            ]
        },
    )
    stubber = services.stub("service-quotas")
    for code, value in quotas.items():
        stubber.add_response(
            "get_service_quota", {"Quota": {"Value": value}}, {"ServiceCode": "ec2", "QuotaCode": code}
        )
    return [*check_quotas([fleet], ec2=services.make("ec2"), quotas=services.make("service-quotas"))]


def test_codes_are_those_of_the_state_machine() -> None:
    """A run that is refused for a quota names the code that the doctor checks."""
    quotas = AUTO_SCALING_WORDS.quotas
    words = {market: {letter: text.split()[0] for letter, text in codes.items()} for market, codes in quotas.items()}
    assert words == QUOTA_CODES


def test_compares_quotas_with_the_fleet(services: Services) -> None:
    """Sixteen GPUs are four nodes of 48 vCPUs: one quota holds them, the other does not."""
    # WHEN
    on_demand, spot = quota_checks(services, {"L-DB2E81BA": 192, "L-3819A6DF": 64})
    # THEN
    assert on_demand == Check(name="On-Demand G", state=OK, says="192 vCPUs, enough for all 16 GPUs (192)")
    assert (spot.state, spot.says) == (WARN, "64 vCPUs (quota L-3819A6DF), but 16 GPUs need 192")
    assert spot.fix.startswith("request 192 in Service Quotas (Amazon EC2, L-3819A6DF)")


def test_an_account_without_any_quota_fails(services: Services) -> None:
    """An account whose GPU quotas are 0, as in a new one, fails: no run would get a node."""
    # WHEN
    checks = quota_checks(services, {"L-DB2E81BA": 0, "L-3819A6DF": 0})
    # THEN
    assert [check.state for check in checks] == [WARN, WARN, FAIL]
    assert checks[-1].says == "the quotas of both markets are too small for a single node"


def test_takes_the_default_of_a_quota_that_was_never_changed(services: Services) -> None:
    """A quota that was never changed has AWS's default value."""
    # GIVEN
    stubber = services.stub("service-quotas")
    for _ in QUOTA_CODES:
        stubber.add_client_error("get_service_quota", "NoSuchResourceException")
        stubber.add_response("get_aws_default_service_quota", {"Quota": {"Value": 500.0}})
    # WHEN
    checks = quota_checks(services, {})
    # THEN
    assert [check.state for check in checks] == [OK, OK]


def test_what_cannot_be_asked_is_no_failure(services: Services) -> None:
    """A quota that the user may not read is a warning, because starting runs does not need it."""
    # GIVEN
    stubber = services.stub("service-quotas")
    for _ in QUOTA_CODES:
        stubber.add_client_error("get_service_quota", "AccessDeniedException")
    # WHEN
    checks = quota_checks(services, {})
    # THEN
    assert {check.state for check in checks} == {WARN}
    assert {check.says for check in checks} == {
        "could not be checked: your credentials lack the permission servicequotas:GetServiceQuota"
    }


def test_needs_a_region() -> None:
    """Without a Region the examination ends, because nothing else can be asked."""
    # WHEN
    *_, last = Services().doctor(None).examine(stack="Training")
    # THEN
    assert last == Check(name="region", state=FAIL, says="no region is set", fix="set AWS_REGION to the stack's")


def test_needs_credentials(services: Services) -> None:
    """Credentials that AWS refuses end the examination with what to do."""
    # GIVEN
    services.stub("sts").add_client_error("get_caller_identity", "ExpiredToken", "The token expired.")
    # WHEN
    *_, last = services.doctor().examine(stack="Training")
    # THEN
    assert (last.name, last.state) == ("credentials", FAIL)
    assert last.says == "AWS refused sts:GetCallerIdentity (ExpiredToken: The token expired)"
    assert last.fix.startswith("sign in")


def test_needs_a_network(services: Services) -> None:
    """A user who cannot reach AWS is told so, and not told to sign in."""
    # GIVEN
    address = "http://127.0.0.1:9"
    services.clients["sts"] = boto3.client(
        "sts",
        region_name="eu-west-1",
        endpoint_url=address,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"total_max_attempts": 1}),
    )
    # WHEN
    *_, last = services.doctor().examine(stack="Training")
    # THEN
    assert (last.name, last.state) == ("credentials", FAIL)
    assert address in last.says
    assert last.fix == "check the network, the region and AWS_ENDPOINT_URL"


def test_looks_no_further_than_the_account_without_a_stack(services: Services) -> None:
    """Before anything is deployed, the doctor checks the machine, the credentials and the account."""
    # GIVEN
    services.sign_in()
    # WHEN
    checks = named([*services.doctor().examine(stack=None)])
    # THEN
    assert (checks["credentials"].says, checks["clock"].state) == ("arn:aws:iam::123456789012:role/Trainer", OK)
    assert (checks["stack"].state, [c for c in checks.values() if c.state == FAIL]) == (WARN, [])


def test_tells_that_the_clock_is_wrong(services: Services) -> None:
    """A clock is wrong if it differs from the time in AWS's answers."""
    # GIVEN
    services.sign_in(at=NOW + 200)
    # WHEN
    clock = named([*services.doctor().examine(stack=None)])["clock"]
    # THEN
    assert (clock.state, clock.says) == (WARN, "200 s behind AWS's")


def test_tells_that_there_is_no_such_stack(services: Services) -> None:
    """A missing stack is reported in the sentence of all verbs, with what to do."""
    # GIVEN
    services.sign_in()
    services.stub("cloudformation").add_client_error(
        "describe_stacks", "ValidationError", "Stack with id Trainign does not exist"
    )
    # WHEN
    *_, last = services.doctor().examine(stack="Trainign")
    # THEN
    assert (last.name, last.state) == ("stack", FAIL)
    assert last.says == "there is no stack 'Trainign' in eu-west-1: check its name and AWS_REGION"


def job_quota_checks(services: Services, values: Mapping[str, float]) -> dict[str, Check]:
    """Check a fleet of SageMaker's types against an account whose own values differ from AWS's defaults of 0."""
    fleet = Fleet(id="sagemaker-1", max_gpus=16, gpu_step=4, elastic=False, types={"ml.g5.12xlarge": 4})
    stubber = services.stub("service-quotas")
    defaults = [name.format("ml.g5.12xlarge") for name in QUOTA_NAMES.values()]
    for operation, quotas in (
        ("list_aws_default_service_quotas", dict.fromkeys(defaults, 0.0)),
        ("list_service_quotas", values),
    ):
        listed = [{"QuotaName": name, "Value": value} for name, value in quotas.items()]
        stubber.add_response(operation, {"Quotas": listed}, {"ServiceCode": "sagemaker"})
    return named([*check_job_quotas([fleet, FLEET], quotas=services.make("service-quotas"))])


def test_sagemakers_quotas_count_instances(services: Services) -> None:
    """A quota of SageMaker is compared with the instances of the largest job; fleets of EC2 do not count."""
    # WHEN
    found = job_quota_checks(services, {"ml.g5.12xlarge for training job usage": 4})
    # THEN
    assert found["On-Demand ml.g5.12xlarge"].state == OK
    spot = found["Spot ml.g5.12xlarge"]
    assert (spot.state, spot.says) == (
        WARN,
        "0 instances ('ml.g5.12xlarge for spot training job usage'), but the largest runs need 4",
    )
    assert "job quotas" not in found


def test_an_account_without_any_quota_of_sagemaker_fails(services: Services) -> None:
    """Where every quota is 0, as in a new account, no run could get a job."""
    assert job_quota_checks(services, {})["job quotas"].state == FAIL
