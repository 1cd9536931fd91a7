"""Holds receipts against their published schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from horovod_client.results.receipt import receipt_schema


def validate_receipt(receipt: Mapping[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` unless *receipt* is as the schema says."""
    schema = receipt_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(receipt)
