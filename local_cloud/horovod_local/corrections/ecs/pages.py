"""Pages of the List operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

LONGEST_PAGE: Final = 100
"""`maxResults` of ListTasks and ListContainerInstances: "between 1 and 100", and 100 by default (API Reference)."""


def page(name: str, items: Sequence[str], token: str | None, limit: int | None) -> dict[str, Any]:
    """
    Return one page of *items* as an answer.

    Args:
        name: Member of the answer that holds the items.
        items: All items.
        token: `nextToken` of the request; None for the first page.
        limit: `maxResults` of the request; None for the default.
    """
    start, length = int(token or 0), limit or LONGEST_PAGE
    end = start + length
    more = {"nextToken": str(end)} if end < len(items) else {}
    return {name: items[start:end], **more}
