"""Admin pages of users, groups, API tokens and the audit log. A token's digest is never shown."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from portal.accounts import services
from portal.accounts.models import ApiToken, AuditEntry
from portal.admin_base import ModelAdmin, ReadOnlyAdmin

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin[User]):  # type: ignore[type-arg]
    """Django's page in unfold's clothes."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin[Group]):
    """Django's page in unfold's clothes."""


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin[ApiToken]):
    """Who has which token, when it was used last, and how much it may ask of launched models, which is set here. Made
    on the user's own page, ended here or there."""

    list_display = (
        "name",
        "user",
        "prefix",
        "works",
        "requests_per_minute",
        "concurrent_requests",
        "created_at",
        "last_used_at",
        "expires_at",
        "revoked_at",
    )
    list_filter = ("revoked_at", "user")
    list_select_related = ("user",)
    search_fields = ("name", "prefix", "user__username")
    exclude = ("digest",)
    readonly_fields = ("user", "name", "prefix", "created_at", "last_used_at", "expires_at", "revoked_at")
    actions = ("revoke",)

    @admin.display(boolean=True, description="Works")
    def works(self, token: ApiToken) -> bool:
        return token.revoked_at is None and (token.expires_at is None or token.expires_at > timezone.now())

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, tokens: QuerySet[ApiToken]) -> None:
        assert isinstance(request.user, User)
        for token in tokens:
            services.revoke(request.user, token)
        self.message_user(request, f"Revoked: {', '.join(token.name for token in tokens)}.", messages.SUCCESS)

    def has_change_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        """Only its limits are fields that can be changed."""
        return request.user.has_perm("accounts.change_apitoken")

    def save_model(self, request: HttpRequest, obj: ApiToken, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        assert isinstance(request.user, User)
        limits = f"{obj.requests_per_minute} requests a minute, {obj.concurrent_requests} at a time (None: the default)"
        services.audit(request.user, "limit token", f"token {obj.prefix}…", limits)

    has_revoke_permission = has_change_permission


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin[AuditEntry]):
    """Who did what, when. Nobody changes it."""

    list_display = ("at", "user", "action", "target", "detail")
    list_filter = ("action", "at", "user")
    list_select_related = ("user",)
    search_fields = ("action", "target", "detail", "user__username")
    date_hierarchy = "at"
