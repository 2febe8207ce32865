"""Pages of lists: `limit`, `offset`, and the count of all. Knows nothing of what is listed."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from django.db.models import Model, QuerySet
from ninja import Query, Schema
from pydantic import Field

Item = TypeVar("Item")
Row = TypeVar("Row", bound=Model)

Limit = Annotated[int, Query(50, ge=1, le=500, description="At most this many items.")]
Offset = Annotated[int, Query(0, ge=0, le=10**9, description="Skip this many items.")]


class Page(Schema, Generic[Item]):
    """Some of a list."""

    items: list[Item]
    count: int = Field(description="Of the whole list.")


def page(rows: QuerySet[Row], limit: int, offset: int, shape: Callable[[Row], Any] = lambda row: row) -> dict[str, Any]:
    """The items of one page, each through `shape`, and the count of all."""
    found = list(rows[offset : offset + limit])
    whole = len(found) < limit and (found or not offset)  # then the page itself says how many there are
    return {"items": [shape(row) for row in found], "count": offset + len(found) if whole else rows.count()}
