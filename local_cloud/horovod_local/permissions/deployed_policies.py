"""The present policies of the account, read out of moto."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from horovod_local.permissions.policy import Policy, read_policy
from horovod_local.permissions.principals import Principal
from horovod_local.shared.faults import INSTANCE_PREFIX


def identity_policies(principal: Principal) -> list[Policy]:
    """List the policies of the principal's role, or of the user and its groups; none if it no longer exists."""
    if principal.service:
        return []
    if principal.is_administrator:
        return [read_policy("administrator", '{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}')]
    holders = [role(principal.role)] if principal.role else _user_and_groups(principal)
    return [policy for holder in holders if holder is not None for policy in _policies_of(holder)]


def session_policy(principal: Principal) -> Policy | None:
    """Return the session policy of *principal*; None if it has none."""
    if not principal.session_policy:
        return None
    return read_policy(f"{principal.arn}/session", principal.session_policy)


def resource_policy(arn: str) -> Policy | None:
    """Return the bucket, key, topic or trust policy of the resource *arn*; None if it has none."""
    _, partition, service, region, account, rest = arn.split(":", 5)
    text = _OWN_POLICIES[service](partition, region, account, rest) if service in _OWN_POLICIES else None
    return read_policy(arn, text) if text else None


def endpoint(principal: Principal, *, service: str) -> tuple[Mapping[str, str], Policy] | None:
    """
    Return the VPC endpoint through which a node reaches a service.

    Args:
        principal: The principal of the request.
        service: Last part of the endpoint service's name, such as `dynamodb`.

    Returns:
        `id` of the endpoint and `vpc` with its policy; None if the principal is not in a VPC, or has no endpoint.
    """
    from moto.ec2.models import ec2_backends

    instance = _instance(principal) if principal.caller.startswith(INSTANCE_PREFIX) else None
    vpc = principal.vpc if instance is None else instance.vpc_id
    for region, backend in list(ec2_backends[principal.account].items()) if vpc else []:
        for found in list(backend.vpc_end_points.values()):
            if found.vpc_id == vpc and found.service_name.endswith(f".{region}.{service}"):
                document = found.policy_document
                text = document if isinstance(document, str) else json.dumps(document)
                return {"id": found.id, "vpc": found.vpc_id}, read_policy(found.id, text)
    return None


def instance_facts(principal: Principal) -> dict[str, str]:
    """
    Return the condition keys of a request that is signed with an instance's own credentials.

    Their session is named after the instance; those of an ECS task on it are not, and have no such keys.
    """
    own = principal.caller.startswith("i-") and principal.arn.endswith(f"/{principal.caller}")
    instance = _instance(principal) if own else None
    if instance is None:
        return {}
    return {
        "aws:ec2instancesourcevpc": str(instance.vpc_id),
        "ec2:sourceinstancearn": f"arn:aws:ec2:{instance.region_name}:{principal.account}:instance/{instance.id}",
    }


def role(arn: str) -> Any:
    """Return moto's role with this ARN; None if there is none."""
    from moto.iam.models import iam_backends

    _, partition, _, _, account, _ = arn.split(":", 5)
    return next((found for found in list(iam_backends[account][partition].roles.values()) if found.arn == arn), None)


def role_of_profile(profile: Mapping[str, Any], *, account: str, partition: str) -> str:
    """Return the ARN of the role in an instance profile, given by `Arn` or `Name`; empty if there is none."""
    from moto.iam.models import iam_backends

    for found in list(iam_backends[account][partition].instance_profiles.values()):
        if profile.get("Arn") == found.arn or profile.get("Name") == found.name:
            return str(found.roles[0].arn) if found.roles else ""
    return ""


def all_policies(account: str) -> Iterator[tuple[str, Policy]]:
    """Yield all policies of the account that are evaluated here, each with the kind of its owner."""
    from moto.ec2.models import ec2_backends
    from moto.iam.models import iam_backends
    from moto.kms.models import kms_backends
    from moto.s3.models import s3_backends
    from moto.sns.models import sns_backends

    for iam in list(iam_backends[account].values()):
        for kind, holders in (("role", iam.roles), ("user", iam.users), ("group", iam.groups)):
            for holder in list(holders.values()):
                for policy in _policies_of(holder):
                    yield kind, policy
        for found in list(iam.roles.values()):
            yield "trust", read_policy(found.arn, _text(found.assume_role_policy_document))
    arns = [
        f"arn:{partition}:s3:::{name}" for partition, s3 in s3_backends[account].items() for name in list(s3.buckets)
    ]
    arns += [key.arn for kms in list(kms_backends[account].values()) for key in list(kms.keys.values())]
    arns += [arn for sns in list(sns_backends[account].values()) for arn in list(sns.topics)]
    for arn in arns:
        own = resource_policy(arn)
        if own is not None:
            yield {"s3": "bucket", "kms": "key", "sns": "topic"}[arn.split(":")[2]], own
    for ec2 in list(ec2_backends[account].values()):
        for found in list(ec2.vpc_end_points.values()):
            yield "endpoint", read_policy(found.id, _text(found.policy_document))


def _policies_of(holder: Any) -> Iterator[Policy]:
    if getattr(holder, "permissions_boundary_arn", None):
        raise NotImplementedError(f"{holder.arn} has a permissions boundary, which is not supported")
    for name, text in list(holder.policies.items()):
        yield read_policy(f"{holder.name}/{name}", _text(text))
    for managed in list(holder.managed_policies.values()):
        versions = {version.version_id: version.document for version in managed.versions}
        yield read_policy(f"{holder.name}/{managed.name}", _text(versions[managed.default_version_id]))


def _user_and_groups(principal: Principal) -> list[Any]:
    from moto.iam.models import iam_backends

    iam = iam_backends[principal.account][principal.arn.split(":")[1]]
    user = next((found for found in list(iam.users.values()) if found.arn == principal.arn), None)
    return [] if user is None else [user, *iam.get_groups_for_user(user.name)]


def _instance(principal: Principal) -> Any:
    from moto.ec2.models import ec2_backends

    for backend in list(ec2_backends[principal.account].values()):
        for reservation in list(backend.reservations.values()):
            for instance in reservation.instances:
                if instance.id == principal.caller:
                    return instance
    return None


def _bucket_policy(partition: str, _region: str, _account: str, name: str) -> str | None:
    bucket = _bucket(partition, name)
    return None if bucket is None or not bucket.policy else _text(bucket.policy)


def _bucket(partition: str, name: str) -> Any:
    from moto.s3.models import s3_backends

    for backends in list(s3_backends.values()):
        found = backends[partition].buckets.get(name.partition("/")[0])
        if found is not None:
            return found
    return None


def _key_policy(_partition: str, region: str, account: str, rest: str) -> str | None:
    from moto.kms.models import kms_backends

    key = kms_backends[account][region].keys.get(rest.removeprefix("key/"))
    return None if key is None else _text(key.policy)


def _topic_policy(partition: str, region: str, account: str, rest: str) -> str | None:
    from moto.sns.models import sns_backends

    topic = sns_backends[account][region].topics.get(f"arn:{partition}:sns:{region}:{account}:{rest}")
    return None if topic is None else topic.policy


def _trust_policy(partition: str, _region: str, account: str, rest: str) -> str | None:
    found = role(f"arn:{partition}:iam::{account}:{rest}") if rest.startswith("role/") else None
    return None if found is None else _text(found.assume_role_policy_document)


_OWN_POLICIES = {"s3": _bucket_policy, "kms": _key_policy, "sns": _topic_policy, "iam": _trust_policy}


def _text(document: Any) -> str:
    if isinstance(document, bytes):
        return document.decode()
    return document if isinstance(document, str) else json.dumps(document)
