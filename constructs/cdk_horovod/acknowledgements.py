"""Accepts findings of cdk-nag's AwsSolutions pack; each call stands beside the construct with the finding."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from aws_cdk import Acknowledgment, Stack, Token, Tokenization, Validations
from aws_cdk import aws_iam as iam

if TYPE_CHECKING:
    from typing import Any

    from constructs import IConstruct


def acknowledge(construct: IConstruct, *, rule: str, reason: str) -> None:
    """
    Accept one finding on *construct* and its children.

    Args:
        construct: The narrowest construct that has the finding.
        rule: Id of the rule without the pack's name, and with the finding if the rule reports several: `AS3`,
            `IAM5[Resource::*]`.
        reason: Why the finding does no harm, for the reviewer.
    """
    # cdk-nag 3.0.2 also takes the id without the pack's prefix, but only this form shows up among the report's
    # suppressed violations.
    finding = f"AwsSolutions::AwsSolutions-{rule}"
    Validations.of(construct).acknowledge(Acknowledgment(id=finding, reason=reason))


def acknowledge_objects(
    grantee: iam.IGrantable | iam.Policy | iam.ManagedPolicy, *, owner: IConstruct, arn: str, path: str, reason: str
) -> None:
    """
    Accept that a policy of *grantee* names all objects below one path.

    The finding is accepted for exactly this resource, in the policies of exactly this principal.

    Args:
        grantee: Principal that was granted the permission, or the policy that grants it.
        owner: The bucket.
        arn: The bucket's ARN, without a path.
        path: What follows the ARN: `/source/*`.
        reason: Why the finding does no harm, for the reviewer.
    """
    holder = holder_of(grantee)
    if holder is not None:
        acknowledge_objects_in(holder, owner=owner, arn=arn, path=path, reason=reason)


def holder_of(grantee: iam.IGrantable | iam.Policy | iam.ManagedPolicy) -> IConstruct | None:
    """
    Return the construct with the policies of *grantee*, in which cdk-nag finds what is granted.

    None for a principal that is not a construct: it has no policy in a template, and so no finding.
    """
    holder = grantee if isinstance(grantee, iam.Policy | iam.ManagedPolicy) else grantee.grant_principal
    # `Construct.is_construct` has no answer for a principal, which jsii reports as an error.
    return cast("IConstruct", holder) if hasattr(holder, "node") else None


def acknowledge_objects_in(reader: IConstruct, *, owner: IConstruct, arn: str, path: str, reason: str) -> None:
    """Accept that a policy of *reader*, or of a construct below it, names all objects below one path."""
    acknowledge(reader, rule=f"IAM5[Resource::{_as_seen_from(reader, owner=owner, arn=arn)}{path}]", reason=reason)


def _as_seen_from(reader: IConstruct, *, owner: IConstruct, arn: str) -> str:
    """
    Write *arn* as cdk-nag will find it in the template of *reader*.

    An acknowledgement needs this text now, although it is fixed only at synthesis: in the bucket's own stack it is
    `<LogicalId.Arn>`, in another stack the name of an export. Exporting the value here makes CDK choose that name now;
    the reference would have created the same export later.
    """
    stack = Stack.of(owner)
    if Stack.of(reader) is stack or not Token.is_unresolved(arn):
        return _flat(stack.resolve(arn))
    for token in Tokenization.reverse_string(arn).tokens:
        value = stack.resolve(token)
        seen = stack.resolve(stack.export_value(token)) if "Fn::GetAtt" in value else value
        arn = arn.replace(Token.as_string(token), _flat(seen))
    return arn


def _flat(value: Any) -> str:
    """Write a resolved CloudFormation value as cdk-nag 3.0.2 does in its findings (`flattenCfnReference`)."""
    match value:
        case str():
            return value.replace("${", "<").replace("}", ">")
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(_flat(part) for part in parts)
        case {"Fn::Sub": text}:
            return _flat(text)
        case {"Fn::GetAtt": [resource, attribute]}:
            return f"<{resource}.{attribute}>"
        case {"Fn::ImportValue": name}:
            return _flat(name)
        case {"Ref": name}:
            return f"<{name}>"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
