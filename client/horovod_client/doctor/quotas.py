"""Checks whether the account's quotas of EC2 allow the fleets' largest sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from horovod_client.aws.connection import Fleet
from horovod_client.aws.error_codes import code_of
from horovod_client.aws.refusals import AwsError, why_refused
from horovod_client.doctor.check import FAIL, OK, WARN, Check, unchecked
from horovod_client.text.markets import MARKET_NAMES
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_service_quotas import ServiceQuotasClient

QUOTA_CODES: Final[Mapping[str, Mapping[str, str]]] = {
    contract.ON_DEMAND: {"g": "L-DB2E81BA", "p": "L-417A185B"},
    contract.SPOT: {"g": "L-3819A6DF", "p": "L-7212CCBC"},
}
"""Codes of Service Quotas by market and first letter of the instance type; the quotas count vCPUs."""

OWN_SPOT_QUOTA: Final = r"p[5-9]"
"""P types from the fifth generation on, which have their own Spot quotas."""


@dataclass(frozen=True, kw_only=True)
class _Need:
    """
    Capacity that a family of types needs.

    Args:
        vcpus: vCPUs of all fleets at their largest size.
        gpus: GPUs of all fleets at their largest size.
        node: vCPUs of the smallest node.
    """

    vcpus: float
    gpus: int
    node: int


def check_quotas(fleets: Iterable[Fleet], *, ec2: EC2Client, quotas: ServiceQuotasClient) -> Iterator[Check]:
    """
    Compare the account's quotas with the fleets' largest sizes, by family and market.

    Args:
        fleets: The training's fleets; SageMaker's types have quotas of their own (`doctor.job_quotas`).
        ec2: Client for the vCPUs of types.
        quotas: Client for quotas.
    """
    fleets = tuple(fleets)
    types = {name for fleet in fleets for name in fleet.types if not name.startswith(contract.SAGEMAKER_PREFIX)}
    try:
        vcpus = _vcpus(sorted(types), ec2=ec2)
    except AwsError as error:
        yield unchecked("quotas", why_refused(error, action="ec2:DescribeInstanceTypes"))
        return
    for letter in sorted({name[0] for name in vcpus}):
        values = []
        for market, codes in QUOTA_CODES.items():
            name = f"{MARKET_NAMES[market]} {letter.upper()}"
            need = _need(fleets, vcpus, letter=letter, market=market)
            if letter not in codes or need is None:
                yield unchecked(name, "these types have their own quotas")
                continue
            try:
                value = read_quota(codes[letter], quotas=quotas)
            except AwsError as error:
                yield unchecked(name, why_refused(error, action="servicequotas:GetServiceQuota"))
                continue
            values.append((value, need))
            yield _compare(name, codes[letter], value=value, need=need)
        if len(values) == len(QUOTA_CODES) and all(value < need.node for value, need in values):
            yield Check(
                name=f"quota {letter.upper()}",
                state=FAIL,
                says="the quotas of both markets are too small for a single node",
                fix="request one of the increases above in Service Quotas; until then no run gets nodes",
            )


def _compare(name: str, code: str, *, value: float, need: _Need) -> Check:
    if value >= need.vcpus:
        says = f"{value:g} vCPUs, enough for all {need.gpus} GPUs ({need.vcpus:g})"
        return Check(name=name, state=OK, says=says)
    return Check(
        name=name,
        state=WARN,
        says=f"{value:g} vCPUs (quota {code}), but {need.gpus} GPUs need {need.vcpus:g}",
        fix=f"request {need.vcpus:g} in Service Quotas (Amazon EC2, {code}), unless your fleets never use this market",
    )


def _need(fleets: Iterable[Fleet], vcpus: Mapping[str, int], *, letter: str, market: str) -> _Need | None:
    """Add up the needs of the fleets at their largest size, with the types that need the fewest vCPUs per GPU."""
    total, gpus, nodes = 0.0, 0, []
    for fleet in fleets:
        types = {
            name: vcpus[name] / per_node
            for name, per_node in fleet.types.items()
            if name[0] == letter and name in vcpus and not (market == contract.SPOT and re.match(OWN_SPOT_QUOTA, name))
        }
        if types:
            total += fleet.max_gpus * min(types.values())
            gpus += fleet.max_gpus
            nodes += [vcpus[name] for name in types]
    return _Need(vcpus=total, gpus=gpus, node=min(nodes)) if nodes else None


def _vcpus(types: list[str], *, ec2: EC2Client) -> dict[str, int]:
    if not types:
        return {}
    pages = ec2.get_paginator("describe_instance_types").paginate(
        InstanceTypes=types  # type: ignore[arg-type]  # the connection names types that the stubs may not know
    )
    return {kind["InstanceType"]: kind["VCpuInfo"]["DefaultVCpus"] for page in pages for kind in page["InstanceTypes"]}


def read_quota(code: str, *, quotas: ServiceQuotasClient) -> float:
    """Return the account's value of a quota, or AWS's default."""
    try:
        return quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
    except AwsError as error:
        # A quota that was never changed may have no value for the account.
        if code_of(error) != "NoSuchResourceException":
            raise
    return quotas.get_aws_default_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
