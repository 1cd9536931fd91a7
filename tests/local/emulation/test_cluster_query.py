"""The cluster query language: ECS Developer Guide, "Create expressions to define container instances …"."""

from __future__ import annotations

import pytest

from horovod_local.corrections.ecs.cluster_query import QueryError, compile_query

INSTANCE = {
    "attribute:ecs.instance-type": "g5.12xlarge",
    "attribute:ecs.availability-zone": "eu-west-1a",
    "attribute:stack": "prod",
    "attribute:flag": "",
    "agentConnected": "true",
}


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("attribute:ecs.instance-type == g5.12xlarge", True),
        ("attribute:ecs.instance-type equals g5.xlarge", False),
        ("attribute:ecs.instance-type == g5.12", False),
        ("attribute:ecs.availability-zone in [eu-west-1a, eu-west-1b]", True),
        ("attribute:ecs.availability-zone in ['eu-west-1c']", False),
        ("attribute:ecs.instance-type =~ g5.*", True),
        ("attribute:ecs.instance-type matches 5.*", False),
        ("attribute:other =~ .*", False),
        ("attribute:flag exists", True),
        ("attribute:other !exists", True),
        ("attribute:stack not_exists", False),
        ("attribute:stack == prod and attribute:ecs.instance-type =~ p3.*", False),
        ("attribute:stack == prod && attribute:flag exists", True),
        ("attribute:stack == test or attribute:flag exists", True),
        ("attribute:stack == test || attribute:flag !exists", False),
        ("not attribute:stack == prod", False),
        ("not(attribute:stack == test)", True),
        ("!(attribute:stack == prod)", False),
        ("attribute:flag exists or attribute:stack == test and attribute:stack == test", True),
        ("(attribute:flag exists or attribute:stack == test) and attribute:stack == test", False),
        ("agentConnected == true and attribute:stack == prod", True),
    ],
)
def test_expressions_select_instances(expression: str, selected: bool) -> None:
    """Each operator, and their combinations: `and` binds more strongly than `or`."""
    # WHEN, THEN
    assert compile_query(expression, subjects=("agentConnected",))(INSTANCE) is selected


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "it ends too early"),
        ("attribute:stack ==", "it ends too early"),
        ("attribute:stack != prod", "the operator '!=' is not supported"),
        ("attribute:stack !in [prod]", "the operator '!in' is not supported"),
        ("task:group == service:production", "the subject 'task:group' is not supported"),
        ("agentConnected == true", "the subject 'agentConnected' is not supported"),
        ("attribute:stack in prod", r"'in' needs a list in brackets, got 'prod'"),
        ("(attribute:stack == prod", "it ends too early"),
        ("attribute:stack == prod)", r"unexpected '\)'"),
        ("attribute:stack == prod attribute:flag exists", "unexpected 'attribute:flag'"),
        ("attribute:stack =~ *", "not a regular expression"),
    ],
)
def test_fails_for_what_is_not_supported(expression: str, why: str) -> None:
    """Whatever cannot be evaluated is refused, naming the expression."""
    # WHEN, THEN
    with pytest.raises(QueryError, match=why) as refused:
        compile_query(expression)
    assert f"'{expression}'" in str(refused.value)
