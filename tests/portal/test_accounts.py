"""API tokens and the audit log."""

from datetime import timedelta

import pytest
from django.utils import timezone

from portal.accounts import selectors, services
from portal.accounts.models import ApiToken, AuditEntry
from tests.portal.factories import make_user
from workers.contract.errors import Refused

pytestmark = pytest.mark.django_db


def test_a_token_is_shown_once_and_only_its_digest_is_kept() -> None:
    user = make_user()
    record, token = services.create_token(user, "laptop")
    assert token.startswith("lift_")
    assert len(token) == len("lift_") + 43  # 32 bytes, base64 without padding
    assert token.startswith(record.prefix)
    stored = ApiToken.objects.values().get()
    assert token not in str(stored)
    assert stored["digest"] == services.digest(token)
    assert services.authenticate(token) == user


@pytest.mark.parametrize("wrong", ["", "lift_", "lift_wrong", "other", "lift_\udcff"])
def test_other_tokens_name_nobody(wrong: str) -> None:
    services.create_token(make_user(), "laptop")
    assert services.authenticate(wrong) is None


def test_revoked_expired_and_inactive_tokens_stop_working() -> None:
    user = make_user()
    revoked, first = services.create_token(user, "revoked")
    services.revoke(user, revoked)
    expired, second = services.create_token(user, "expired", timezone.now() + timedelta(hours=1))
    ApiToken.objects.filter(pk=expired.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    _, third = services.create_token(user, "good")
    assert [services.authenticate(token) for token in (first, second, third)] == [None, None, user]
    assert [token.name for token in selectors.tokens(user)] == ["good"]
    user.is_active = False
    user.save()
    assert services.authenticate(third) is None


def test_use_is_noted_at_most_once_a_minute() -> None:
    record, token = services.create_token(make_user(), "laptop")

    def used_after(seconds_ago: float) -> bool:
        before = timezone.now() - timedelta(seconds=seconds_ago)
        ApiToken.objects.filter(pk=record.pk).update(last_used_at=before)
        services.authenticate(token)
        record.refresh_from_db()
        return record.last_used_at != before

    assert record.last_used_at is None
    services.authenticate(token)
    record.refresh_from_db()
    assert record.last_used_at is not None
    assert not used_after(30)
    assert used_after(90)


def test_names_and_dates_are_checked() -> None:
    user = make_user()
    for name in (" ", "x" * 81):
        with pytest.raises(Refused, match="name:"):
            services.create_token(user, name)
    with pytest.raises(Refused, match="not in the future"):
        services.create_token(user, "late", timezone.now())


def test_what_was_done_is_written_down_once_and_cut_to_fit() -> None:
    user = make_user()
    record, _ = services.create_token(user, "laptop")
    services.revoke(user, record)
    services.revoke(user, record)
    services.audit(None, "a" * 100, "t" * 200, "d" * 500)
    assert [entry.action for entry in selectors.audit_entries()] == ["a" * 60, "revoke token", "create token"]
    entry = AuditEntry.objects.order_by("pk").last()
    assert entry is not None
    assert (len(entry.target), len(entry.detail), entry.user) == (160, 400, None)
