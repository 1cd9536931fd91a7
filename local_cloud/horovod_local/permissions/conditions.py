"""
Conditions of policy statements: operators, their qualifiers, and the keys that requests have.

Source: IAM User Guide, "IAM JSON policy elements: Condition operators", "Set operators for multivalued context keys"
and "AWS global condition context keys"; the keys of services are those of the Service Authorization Reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt
from typing import Any, Final

from horovod_local.permissions.patterns import arn_matches, substitute, text_equals, text_matches

Context = Mapping[str, Sequence[str]]
"""Values of a request's condition keys, by the key in lower case; absent keys are left out."""

MULTIVALUED_KEYS: Final = frozenset(
    {
        "aws:calledvia",
        "dynamodb:attributes",
        "dynamodb:leadingkeys",
        "sagemaker:instancetypes",
        "sagemaker:vpcsecuritygroupids",
        "sagemaker:vpcsubnets",
    }
)
KEYS: Final = MULTIVALUED_KEYS | {
    "autoscaling:launchtemplateversionspecified",
    "aws:ec2instancesourcevpc",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalisawsservice",
    "aws:principalservicename",
    "aws:principaltype",
    "aws:requestedregion",
    "aws:resourceaccount",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceowner",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
    "aws:username",
    "aws:viaawsservice",
    "cloudwatch:namespace",
    "dynamodb:enclosingoperation",
    "dynamodb:returnvalues",
    "dynamodb:select",
    "ec2:createaction",
    "ec2:launchtemplate",
    "ec2:sourceinstancearn",
    "ecs:cluster",
    "ecs:task-definition",
    "iam:passedtoservice",
    "iam:permissionsboundary",
    "kms:calleraccount",
    "kms:viaservice",
    "s3:delimiter",
    "s3:if-match",
    "s3:if-none-match",
    "s3:max-keys",
    "s3:objectcreationoperation",
    "s3:prefix",
    "s3:resourceaccount",
    "sagemaker:enableremotedebug",
    "sagemaker:intercontainertrafficencryption",
    "sagemaker:keepaliveperiod",
    "sagemaker:maxruntimeinseconds",
    "sts:externalid",
    "sts:rolesessionname",
}
"""The supported condition keys. A policy with any other key is refused."""

_FOR_ALL: Final = "ForAllValues"
_FOR_ANY: Final = "ForAnyValue"
_IF_EXISTS: Final = "IfExists"


class UnsupportedPolicyError(Exception):
    """A policy has an element that is not supported here; the message names element and statement."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """
    One operator on one condition key.

    Args:
        operator: The operator without its qualifiers, such as `StringLike`.
        key: The condition key in lower case.
        values: The values in the policy.
        qualifier: `ForAllValues`, `ForAnyValue`, or ''.
        if_exists: Whether the condition holds when the request lacks the key.
    """

    operator: str
    key: str
    values: tuple[str, ...]
    qualifier: str = ""
    if_exists: bool = False

    def holds(self, context: Context) -> bool:
        """Whether a request with this *context* meets the condition."""
        found = context.get(self.key)
        if self.operator == "Null":
            return self.values[0].lower() == str(found is None).lower()
        matches, negated = _OPERATORS[self.operator]
        if self.qualifier == _FOR_ALL:
            # "It also returns true if there are no context keys in the request."
            return all(self._one(value, matches, context) != negated for value in found or ())
        if self.qualifier == _FOR_ANY:
            # "For no matching key, or an empty set, the condition returns false."
            return any(self._one(value, matches, context) != negated for value in found or ())
        if found is None:
            # "If the key is not present, a negated operator holds; others do not, unless IfExists says so."
            return negated or self.if_exists
        return any(self._one(value, matches, context) for value in found) != negated

    def _one(self, value: str, matches: Callable[[str, str], bool], context: Context) -> bool:
        patterns = (substitute(pattern, context) for pattern in self.values)
        return any(pattern is not None and matches(pattern, value) for pattern in patterns)


def read_conditions(element: Any, *, where: str) -> tuple[Condition, ...]:
    """
    Read the element `Condition` of a statement.

    Args:
        element: The element, as in the policy's JSON.
        where: Description of the statement, for error messages.

    Raises:
        UnsupportedPolicyError: If an operator or key is not supported, or a multivalued key has no set operator.
    """
    conditions = []
    for written, keys in (element or {}).items():
        operator, qualifier, if_exists = written, "", False
        if ":" in operator:
            qualifier, _, operator = operator.partition(":")
        if operator.endswith(_IF_EXISTS):
            operator, if_exists = operator.removesuffix(_IF_EXISTS), True
        if operator not in (*_OPERATORS, "Null") or qualifier not in ("", _FOR_ALL, _FOR_ANY):
            raise UnsupportedPolicyError(f"{where}: the condition operator {written} is not supported")
        for name, values in keys.items():
            key = name.lower()
            if key not in KEYS:
                raise UnsupportedPolicyError(f"{where}: the condition key {name} is not supported")
            if key in MULTIVALUED_KEYS and not qualifier and operator != "Null":
                raise UnsupportedPolicyError(f"{where}: the multivalued key {name} needs {_FOR_ALL} or {_FOR_ANY}")
            listed = values if isinstance(values, list) else [values]
            conditions.append(
                Condition(
                    operator=operator,
                    key=key,
                    values=tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in listed),
                    qualifier=qualifier,
                    if_exists=if_exists,
                )
            )
    return tuple(conditions)


def _same_but_case(pattern: str, value: str) -> bool:
    return text_equals(pattern.lower(), value.lower())


def _compares(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    """Make the comparison of a numeric operator, which no text that is not a number meets."""

    def matches(pattern: str, value: str) -> bool:
        try:
            return compare(float(value), float(pattern))
        except ValueError:
            return False

    return matches


_OPERATORS: Final[Mapping[str, tuple[Callable[[str, str], bool], bool]]] = {
    "StringEquals": (text_equals, False),
    "StringNotEquals": (text_equals, True),
    "StringEqualsIgnoreCase": (_same_but_case, False),
    "StringLike": (text_matches, False),
    "StringNotLike": (text_matches, True),
    # "ArnEquals and ArnLike behave identically"; so do their negations.
    "ArnEquals": (arn_matches, False),
    "ArnLike": (arn_matches, False),
    "ArnNotEquals": (arn_matches, True),
    "ArnNotLike": (arn_matches, True),
    "Bool": (_same_but_case, False),
    "NumericEquals": (_compares(eq), False),
    "NumericNotEquals": (_compares(eq), True),
    "NumericLessThan": (_compares(lt), False),
    "NumericLessThanEquals": (_compares(le), False),
    "NumericGreaterThan": (_compares(gt), False),
    "NumericGreaterThanEquals": (_compares(ge), False),
}
"""By operator: its comparison of pattern and value, and whether it is negated."""
