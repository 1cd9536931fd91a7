"""Checks of an account before a deployment: GPU quotas, zones, endpoint services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from horovod_client.aws.refusals import AwsError, why_refused
from horovod_client.doctor.check import FAIL, OK, WARN, Check, unchecked
from horovod_client.doctor.quotas import QUOTA_CODES, read_quota
from horovod_client.text.markets import MARKET_NAMES

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_service_quotas import ServiceQuotasClient

ENDPOINT_SERVICES: Final = ("autoscaling", "ecr.api", "ecr.dkr", "logs", "states")
"""Services for which `TrainingNetwork` creates interface endpoints in its isolated mode."""
DEFAULT_ZONES: Final = 3
"""Number of zones that `TrainingNetwork` uses by default."""


def check_account(*, ec2: EC2Client, quotas: ServiceQuotasClient, region: str) -> Iterator[Check]:
    """
    Check GPU quotas, which are zero in new accounts, and zones and endpoint services, which the app's defaults need.

    Args:
        ec2: Client for zones, default subnets and endpoint services.
        quotas: Client for quotas.
        region: Region to check.
    """
    yield _gpu_quotas(quotas)
    try:
        zones = _default_zones(ec2)
    except AwsError as error:
        yield unchecked("zones", why_refused(error, action="ec2:DescribeAvailabilityZones and ec2:DescribeSubnets"))
        return
    yield _zones(zones)
    try:
        yield _endpoints(ec2, region=region, zones=zones[:DEFAULT_ZONES])
    except AwsError as error:
        yield unchecked("endpoints", why_refused(error, action="ec2:DescribeVpcEndpointServices"))


def _gpu_quotas(quotas: ServiceQuotasClient) -> Check:
    """Check whether the account may run any GPU: new accounts have quotas of zero."""
    values: dict[str, float] = {}
    codes = {
        f"{MARKET_NAMES[market]} {letter.upper()}": code
        for market, by_letter in QUOTA_CODES.items()
        for letter, code in by_letter.items()
    }
    try:
        for name, code in codes.items():
            values[name] = read_quota(code, quotas=quotas)
    except AwsError as error:
        return unchecked("GPU quotas", why_refused(error, action="servicequotas:GetServiceQuota"))
    says = ", ".join(f"{name} {value:g}" for name, value in values.items()) + " vCPUs"
    if any(values.values()):
        return Check(name="GPU quotas", state=OK, says=says)
    return Check(
        name="GPU quotas",
        state=FAIL,
        says=f"{says}: this account may not run a single GPU here",
        fix=f"request an increase in Service Quotas (Amazon EC2), which takes hours to days: {_listed(codes)}",
    )


def _listed(codes: dict[str, str]) -> str:
    return ", ".join(f"{code} for {name}" for name, code in codes.items())


def _default_zones(ec2: EC2Client) -> list[str]:
    """
    List the zones that CloudFormation returns for a stack without a fixed Region, in its order.

    These are the zones with a default subnet, or all zones if none has one (CloudFormation Template Reference,
    "Fn::GetAZs").
    """
    found = ec2.describe_availability_zones(
        Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}, {"Name": "state", "Values": ["available"]}]
    )["AvailabilityZones"]
    subnets = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    every = sorted(zone["ZoneName"] for zone in found)
    default = {subnet["AvailabilityZone"] for subnet in subnets}
    return [zone for zone in every if zone in default] or every


def _zones(zones: list[str]) -> Check:
    if len(zones) >= DEFAULT_ZONES:
        return Check(name="zones", state=OK, says=", ".join(zones))
    return Check(
        name="zones",
        state=WARN,
        says=f"a stack finds only {', '.join(zones)} here, and the app's default is {DEFAULT_ZONES} zones",
        fix=f"deploy with -c horovod:max_azs={len(zones)}, or name zones with -c horovod:availability_zones=…",
    )


def _endpoints(ec2: EC2Client, *, region: str, zones: list[str]) -> Check:
    prefix = f"com.amazonaws.{region}."
    # In China the names of some services begin with "cn.".
    names = [f"{start}{prefix}{service}" for service in ENDPOINT_SERVICES for start in ("", "cn.")]
    found = ec2.describe_vpc_endpoint_services(
        Filters=[{"Name": "service-type", "Values": ["Interface"]}, {"Name": "service-name", "Values": names}]
    )["ServiceDetails"]
    served = {service["ServiceName"].rpartition(prefix)[2]: service["AvailabilityZones"] for service in found}
    lacking = {
        service: [zone for zone in zones if zone not in served.get(service, ())] for service in ENDPOINT_SERVICES
    }
    gaps = "; ".join(f"{service} not in {', '.join(missing)}" for service, missing in lacking.items() if missing)
    if not gaps:
        return Check(
            name="endpoints", state=OK, says=f"every service that isolated nodes need is in {', '.join(zones)}"
        )
    whole = [zone for zone in zones if not any(zone in missing for missing in lacking.values())]
    order = ",".join([*whole, *(zone for zone in zones if zone not in whole)])
    fix = (
        f"deploy with -c horovod:availability_zones={order} -c horovod:endpoint_azs={len(whole)}"
        if whole
        else "deploy with -c horovod:network=private-with-nat, which needs no endpoints"
    )
    return Check(name="endpoints", state=WARN, says=f"services that isolated nodes need are missing: {gaps}", fix=fix)
