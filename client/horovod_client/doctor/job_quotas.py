"""Checks whether the account's quotas allow SageMaker's training jobs of the fleets' largest sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from horovod_client.aws.connection import Fleet
from horovod_client.aws.refusals import AwsError, why_refused
from horovod_client.doctor.check import FAIL, OK, WARN, Check, unchecked
from horovod_client.text.markets import MARKET_NAMES
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_service_quotas import ServiceQuotasClient

QUOTA_NAMES: Final[Mapping[str, str]] = {
    contract.ON_DEMAND: "{} for training job usage",
    contract.SPOT: "{} for spot training job usage",
}
"""Names of the quotas of a type in Service Quotas, which count instances of all jobs together; their codes differ."""


def check_job_quotas(fleets: Iterable[Fleet], *, quotas: ServiceQuotasClient) -> Iterator[Check]:
    """
    Compare the account's quotas of SageMaker with the fleets' largest jobs, by type and market.

    Args:
        fleets: The training's fleets; those with EC2's types are left out.
        quotas: Client for quotas.
    """
    needs: dict[str, int] = {}
    for fleet in fleets:
        for name, gpus in fleet.types.items():
            if name.startswith(contract.SAGEMAKER_PREFIX):
                # Every fleet has one job at a time.
                needs[name] = needs.get(name, 0) + fleet.max_gpus // gpus
    if not needs:
        return
    try:
        values = _values(quotas)
    except AwsError as error:
        yield unchecked("job quotas", why_refused(error, action="servicequotas:ListServiceQuotas"))
        return
    found = [_compare(name, market, need=need, values=values) for name, need in needs.items() for market in QUOTA_NAMES]
    yield from found
    if all(check.state == WARN and check.says.startswith("0 ") for check in found):
        yield Check(
            name="job quotas",
            state=FAIL,
            says="SageMaker's quotas are 0 for every type and market",
            fix="request one of the increases above in Service Quotas; until then no run gets a job",
        )


def _compare(name: str, market: str, *, need: int, values: Mapping[str, float]) -> Check:
    quota = QUOTA_NAMES[market].format(name)
    title = f"{MARKET_NAMES[market]} {name}"
    if quota not in values:
        return unchecked(title, f"Service Quotas does not list '{quota}' here")
    value = values[quota]
    if value >= need:
        return Check(name=title, state=OK, says=f"{value:g} instances, enough for {need}")
    return Check(
        name=title,
        state=WARN,
        says=f"{value:g} instances ('{quota}'), but the largest runs need {need}",
        fix=f"request {need} in Service Quotas (Amazon SageMaker), unless your runs never use this market",
    )


def _values(quotas: ServiceQuotasClient) -> dict[str, float]:
    """Return SageMaker's quotas by name: AWS's defaults, and the account's own values over them."""
    found: dict[str, float] = {}
    for operation in ("list_aws_default_service_quotas", "list_service_quotas"):
        pages = quotas.get_paginator(operation).paginate(ServiceCode="sagemaker")
        found |= {quota["QuotaName"]: quota["Value"] for page in pages for quota in page["Quotas"]}
    return found
