"""What the doctor says of an account before anything is deployed, and of a fleet's zones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from horovod_client import Fleet
from horovod_client.doctor.account import ENDPOINT_SERVICES, check_account
from horovod_client.doctor.check import FAIL, OK, WARN, Check
from horovod_client.doctor.offers import check_offers

REGION = "us-west-1"
ZONES = ("us-west-1a", "us-west-1b", "us-west-1c")


def client(service: str) -> tuple[Any, Stubber]:
    made = boto3.client(service, region_name=REGION, aws_access_key_id="testing", aws_secret_access_key="testing")
    stubber = Stubber(made)
    stubber.activate()
    return made, stubber


def account(
    *,
    quotas: Sequence[float] = (64, 64, 0, 0),
    zones: Sequence[str] = ZONES,
    default: Sequence[str] = ZONES,
    served: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Check]:
    """Examine an account of these *quotas*, *zones*, zones with *default* subnets, and zones of services."""
    ec2, of_ec2 = client("ec2")
    service_quotas, of_quotas = client("service-quotas")
    for value in quotas:
        of_quotas.add_response("get_service_quota", {"Quota": {"Value": value}})
    of_ec2.add_response("describe_availability_zones", {"AvailabilityZones": [{"ZoneName": zone} for zone in zones]})
    of_ec2.add_response("describe_subnets", {"Subnets": [{"AvailabilityZone": zone} for zone in default]})
    details = [
        {
            "ServiceName": f"com.amazonaws.{REGION}.{service}",
            "AvailabilityZones": list((served or {}).get(service, zones)),
        }
        for service in ENDPOINT_SERVICES
    ]
    of_ec2.add_response("describe_vpc_endpoint_services", {"ServiceDetails": details})
    return {check.name: check for check in check_account(ec2=ec2, quotas=service_quotas, region=REGION)}


def test_an_account_that_has_everything_is_well() -> None:
    """An account passes every check, even if it has quotas of one GPU family only."""
    assert {name: check.state for name, check in account().items()} == {
        "GPU quotas": OK,
        "zones": OK,
        "endpoints": OK,
    }


def test_an_account_without_gpus_fails_first() -> None:
    """New accounts have GPU quotas of zero, in all families and markets."""
    # WHEN
    first, *_ = account(quotas=(0, 0, 0, 0)).values()
    # THEN
    assert (first.name, first.state) == ("GPU quotas", FAIL)
    assert first.says == (
        "On-Demand G 0, On-Demand P 0, Spot G 0, Spot P 0 vCPUs: this account may not run a single GPU here"
    )
    assert "L-DB2E81BA for On-Demand G" in first.fix


@pytest.mark.parametrize(("zones", "default"), [(ZONES[:2], ZONES[:2]), (ZONES, ZONES[:2]), (ZONES[:2], ())])
def test_too_few_zones_are_told_with_the_setting(zones: Sequence[str], default: Sequence[str]) -> None:
    """Two usable zones are too few for a stack of three, and the finding names the setting to change."""
    # WHEN
    found = account(zones=zones, default=default)["zones"]
    # THEN
    assert (found.state, found.says) == (
        WARN,
        "a stack finds only us-west-1a, us-west-1b here, and the app's default is 3 zones",
    )
    assert found.fix.startswith("deploy with -c horovod:max_azs=2")


def test_zones_without_default_subnets_count_where_no_zone_has_one() -> None:
    """In an account without default subnets every zone counts, because CloudFormation lists them all."""
    assert account(default=())["zones"].state == OK


def test_a_service_without_an_endpoint_in_a_zone_is_told() -> None:
    """The zones that have every service come first, and only they get endpoints."""
    # WHEN
    found = account(served={"states": ZONES[1:]})["endpoints"]
    # THEN
    assert (found.state, found.says) == (
        WARN,
        "services that isolated nodes need are missing: states not in us-west-1a",
    )
    assert found.fix == (
        "deploy with -c horovod:availability_zones=us-west-1b,us-west-1c,us-west-1a -c horovod:endpoint_azs=2"
    )


@pytest.mark.parametrize(("offered", "state"), [(ZONES, OK), (ZONES[:1], WARN), (("us-west-1d",), FAIL)])
def test_zones_without_the_fleets_types_are_told(offered: Sequence[str], state: str) -> None:
    """A zone without the fleet's types is a warning, and a failure if no zone has any."""
    # GIVEN
    ec2, of_ec2 = client("ec2")
    autoscaling, of_autoscaling = client("autoscaling")
    of_ec2.add_response(
        "describe_instance_type_offerings", {"InstanceTypeOfferings": [{"Location": zone} for zone in offered]}
    )
    group = {
        "AutoScalingGroupName": "Group",
        "MinSize": 0,
        "MaxSize": 4,
        "DesiredCapacity": 0,
        "DefaultCooldown": 300,
        "AvailabilityZones": list(ZONES),
        "HealthCheckType": "EC2",
        "CreatedTime": 0,
    }
    of_autoscaling.add_response("describe_auto_scaling_groups", {"AutoScalingGroups": [group]})
    fleet = Fleet(id="Fleet", max_gpus=4, gpu_step=1, group="Group", types={"g5.xlarge": 1})
    # WHEN
    (found,) = check_offers([fleet], ec2=ec2, autoscaling=autoscaling)
    # THEN
    assert (found.name, found.state) == ("zones of Fleet", state)
