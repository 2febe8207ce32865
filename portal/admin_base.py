"""What every admin page of Liftoff shares: unfold's classes with types, read-only pages, badges, sizes.

Knows no model.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from django.db.models import Model
from django.http import HttpRequest
from unfold.decorators import display

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin as ModelAdmin
    from django.contrib.admin import TabularInline as TabularInline
else:
    from unfold.admin import ModelAdmin as _ModelAdmin
    from unfold.admin import TabularInline as _TabularInline

    class ModelAdmin(_ModelAdmin):
        """Unfold's, which takes the type parameter that the type checker knows."""

        def __class_getitem__(cls, _: Any) -> Any:
            return cls

    class TabularInline(_TabularInline):
        """Unfold's, which takes the type parameters that the type checker knows."""

        def __class_getitem__(cls, _: Any) -> Any:
            return cls


Row = TypeVar("Row", bound=Model)
Column = TypeVar("Column", bound=Callable[..., Any])

GIB = 2**30
STATUS_COLOURS = {
    "queued": "default",
    "dispatched": "info",
    "running": "info",
    "cancelling": "warning",
    "succeeded": "success",
    "failed": "danger",
    "cancelled": "warning",
    "active": "success",
    "draining": "warning",
    "ok": "success",
    "warn": "warning",
    "fail": "danger",
}


class ReadOnlyAdmin(ModelAdmin[Row]):
    """Looks, never touches: no adding, changing or deleting, whatever the user's permissions are."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return False


class ReadOnlyInline(TabularInline[Any, Any]):
    """Rows of a page, to be read."""

    extra = 0
    can_delete = False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Every field it shows."""
        return list(self.get_fields(request, obj))

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def badge(description: str, ordering: str) -> Callable[[Column], Column]:
    """A column shown as a coloured badge by STATUS_COLOURS."""

    def decorate(column: Column) -> Column:
        decorated: Column = display(description=description, ordering=ordering, label=STATUS_COLOURS)(column)
        return decorated

    return decorate


def size(count: int | None) -> str:
    """Bytes in words, binary units: 1.5 GiB; a dash for none."""
    if count is None:
        return "–"
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
