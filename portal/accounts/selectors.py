"""Reads teams, tokens and the audit log. Writes nothing."""

from collections.abc import Iterable

from django.contrib.auth.models import User
from django.db.models import Min, Q, QuerySet
from django.utils import timezone

from portal.accounts.models import ApiToken, AuditEntry


def tokens(user: User) -> QuerySet[ApiToken]:
    """The user's tokens that still work, newest first."""
    live = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    return ApiToken.objects.filter(live, user=user, revoked_at=None).order_by("-created_at")


def audit_entries() -> QuerySet[AuditEntry]:
    """The audit log, newest first."""
    return AuditEntry.objects.select_related("user").order_by("-at", "-pk")


def teams(users: Iterable[int]) -> dict[int, str]:
    """User id → the team whose share counts: the first of the user's groups by name, or the user alone."""
    rows = User.objects.filter(pk__in=set(users)).order_by("pk").annotate(team=Min("groups__name"))
    return {pk: team or username for pk, team, username in rows.values_list("pk", "team", "username")}
