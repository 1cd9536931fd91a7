"""The cluster query language, for what is known of a node before it runs."""

from __future__ import annotations

import pytest

from cdk_horovod.engines.placement_constraints import MOST_CONSTRAINTS, check_constraints, check_form
from cdk_horovod.fleet.gpu_types import gpu_instance_type

TYPE = "attribute:ecs.instance-type"
TYPES = ("g5.xlarge", "p3.8xlarge")


def left_out(*constraints: str) -> list[str]:
    """List the types that constraints leave out; none if they are accepted."""
    rows = [gpu_instance_type(name) for name in TYPES]
    try:
        check_constraints(check_form(constraints), instance_types=rows)
    except ValueError as error:
        return str(error).rpartition("leaves out ")[2].split(", ")
    return []


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (f"{TYPE} =~ p3.*", ["g5.xlarge"]),
        (f"{TYPE} matches [gp][35].*", []),
        (f"{TYPE} =~ p3", list(TYPES)),
        (f"{TYPE} !~ g5.*", ["g5.xlarge"]),
        (f"{TYPE} == g5.xlarge", ["p3.8xlarge"]),
        (f"{TYPE} not_equals g5.xlarge", ["g5.xlarge"]),
        (f"{TYPE} in [g5.xlarge, p3.8xlarge]", []),
        (f"{TYPE} in [g5.xlarge,g5.2xlarge]", ["p3.8xlarge"]),
        (f"{TYPE} !in [p3.8xlarge]", ["p3.8xlarge"]),
        (f"{TYPE} =~ g5.* or {TYPE} =~ p3.*", []),
        (f"{TYPE} =~ g5.* || {TYPE} == p3.2xlarge", ["p3.8xlarge"]),
        (f"{TYPE} =~ g5.* and attribute:ecs.os-type == linux", ["p3.8xlarge"]),
        (f"not ({TYPE} =~ g5.* && {TYPE} =~ .*xlarge)", ["g5.xlarge"]),
        (f"!({TYPE} =~ p3.*) and not {TYPE} == g5.2xlarge", ["p3.8xlarge"]),
        (f"{TYPE} =~ p3.* or {TYPE} =~ g5.* and attribute:ecs.cpu-architecture == arm64", ["g5.xlarge"]),
        ("attribute:ecs.os-type equals windows", list(TYPES)),
        ("attribute:ecs.instance-type exists", []),
        # What nodes do not have, and what only ECS knows.
        ("attribute:stack == prod", list(TYPES)),
        ("attribute:stack exists", list(TYPES)),
        ("attribute:stack !exists", []),
        ("attribute:stack != prod", []),
        ("attribute:ecs.availability-zone in [eu-west-1a]", []),
        ("not attribute:ecs.availability-zone == eu-west-1a", []),
        ("agentConnected == true and agentVersion >= 1.90.0", []),
        (f"attribute:ecs.availability-zone == eu-west-1a and {TYPE} =~ g5.*", ["p3.8xlarge"]),
        (f"attribute:ecs.availability-zone == eu-west-1a or {TYPE} =~ g5.*", []),
        # Java knows it, Python does not.
        (f"{TYPE} =~ \\p{{Lower}}5.*", []),
    ],
)
def test_constraint_admits_what_ecs_would_admit(expression: str, expected: list[str]) -> None:
    """An expression is evaluated for each type; where it depends on what only ECS knows, it is left to ECS."""
    assert left_out(expression) == expected


def test_every_constraint_must_admit_a_type() -> None:
    """Several constraints are joined by `and`, as ECS does it."""
    assert left_out(f"{TYPE} =~ .*", f"{TYPE} =~ p3.*") == ["g5.xlarge"]


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "g5.*",
        f"{TYPE} =~",
        f"{TYPE} like g5",
        f"({TYPE} == g5.xlarge",
        f"{TYPE} in g5.xlarge",
        f"{TYPE} exists now",
    ],
)
def test_fails_when_it_is_no_expression(expression: str) -> None:
    """What ECS would refuse at the deployment is refused before it, with an expression that would be one."""
    with pytest.raises(ValueError, match="cluster query language") as refused:
        check_form([expression])
    assert str(refused.value) == (
        "'placement_constraints' must be expressions of the cluster query language, such as "
        f"'attribute:ecs.instance-type =~ p3.*', got '{expression}'"
    )


def test_fails_when_there_are_more_than_a_task_may_have() -> None:
    """A task has ten constraints at most, one of which is the engine's."""
    check_form([f"{TYPE} =~ .*"] * MOST_CONSTRAINTS)
    with pytest.raises(ValueError, match=r"^'placement_constraints' must be at most 9, got 10; join some with 'and'$"):
        check_form([f"{TYPE} =~ .*"] * (MOST_CONSTRAINTS + 1))


def test_fails_when_an_expression_is_longer_than_ecs_takes() -> None:
    """An expression has 2,000 characters at most."""
    with pytest.raises(ValueError, match=r"^'placement_constraints' must have at most 2000 characters each, got 2031$"):
        check_form([f"{TYPE} == {'x' * 2000}"])
