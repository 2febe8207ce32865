"""API tokens and the audit log: made, checked, revoked, written.

A token is shown once and kept as its SHA-256 only. Knows nothing of requests, sessions or what a token is used for.
"""

import hashlib
import secrets
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db.models import Q
from django.utils import timezone

from portal.accounts.models import ApiToken, AuditEntry
from workers.contract.errors import Refused

TOKEN_START = "lift_"  # noqa: S105 - what every token starts with, not a secret
TOKEN_BYTES = 32
PREFIX_LENGTH = 12
SEEN_EVERY = timedelta(minutes=1)
"""`last_used_at` is written at most this often, so that a busy client doesn't write on every request."""


def create_token(user: User, name: str, expires_at: datetime | None = None) -> tuple[ApiToken, str]:
    """Make a token for `user`. Returns its record and the token itself, which can't be read again.

    Raises Refused at `name` (empty, over 80 characters) or `expires_at` (not in the future).
    """
    name = name.strip()
    if not name:
        raise Refused.at("name", name, "name: give the token a name that says what uses it.")
    if len(name) > 80:
        raise Refused.at("name", name, f"name: {len(name)} characters are too many; use at most 80.")
    if expires_at is not None and expires_at <= timezone.now():
        raise Refused.at(
            "expires_at",
            expires_at.isoformat(),
            f"expires_at: {expires_at.isoformat()} is not in the future; leave it empty for no end.",
        )
    token = TOKEN_START + secrets.token_urlsafe(TOKEN_BYTES)
    record = ApiToken.objects.create(
        user=user, name=name, prefix=token[:PREFIX_LENGTH], digest=digest(token), expires_at=expires_at
    )
    audit(user, "create token", f"token {record.prefix}…", name)
    return record, token


def authenticate(token: str) -> User | None:
    """The active user whose live token this is, else None."""
    record = live_token(token)
    return record.user if record else None


def live_token(token: str) -> ApiToken | None:
    """The record, with its user, of a token that works; else None."""
    if not token.startswith(TOKEN_START):
        return None
    now = timezone.now()
    live = Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=now))
    record = ApiToken.objects.select_related("user").filter(live, digest=digest(token), user__is_active=True).first()
    if record is not None and (record.last_used_at is None or record.last_used_at < now - SEEN_EVERY):
        ApiToken.objects.filter(pk=record.pk).update(last_used_at=now)
    return record


def revoke(user: User | None, token: ApiToken) -> None:
    """End a token for good; one that is revoked already is left as it is."""
    now = timezone.now()
    if ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now):
        token.revoked_at = now
        audit(user, "revoke token", f"token {token.prefix}…", token.name)


def audit(user: User | None, action: str, target: str, detail: str = "") -> None:
    """Write down that `user` (None: the system) did `action` to `target`. Longer texts are cut to the columns."""
    AuditEntry.objects.create(user=user, action=action[:60], target=target[:160], detail=detail[:400])


def digest(token: str) -> str:
    """SHA-256 of a token, hex. A token has 256 random bits, so a fast hash without a salt is enough."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
