"""A backup holds all of a portal; restoring brings all of it back, into either engine, or changes nothing."""

import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import CommandError, call_command
from django.test import override_settings
from pytest_django.fixtures import Settings

from portal.accounts.models import AuditEntry
from portal.accounts.services import authenticate
from portal.catalog import store
from portal.catalog.models import Adapter
from portal.jobs.models import Attempt
from portal.jobs.tokens import serve_token
from portal.local.backup import tables
from portal.local.backup.archive import Archive
from portal.telemetry.models import AttemptEvent, MetricPoint
from tests.portal.backup import databases
from tests.portal.backup.conftest import (
    POINTS,
    Database,
    Used,
    migrate,
    picture,
    restore,
    stored,
    without_the_restore,
)
from tests.portal.factories import make_attempt, make_job, make_user


class TestThereAndBack:
    def check(self, used: Used, file: Path) -> None:
        """Restore it here, and find everything."""
        said = restore(file)
        assert without_the_restore(picture()) == used.rows
        assert stored() == used.files
        assert f"{len(used.files)} files" in said
        user = authenticate(used.token)
        assert user is not None
        assert user.check_password("correct horse battery")
        assert make_job(user).pk == max(row[0] for row in used.rows["jobs.job"]) + 1
        call_command("migrate", "--check", verbosity=0)

    def test_of_sqlite_into_either(self, used: Used, engine: Database) -> None:
        with databases.portal_on(engine):
            self.check(used, used.backup)

    def test_of_postgresql_into_either(self, used: Used, engine: Database, tmp_path: Path) -> None:
        with databases.postgresql() as source, databases.portal_on(source):
            with override_settings(LIFTOFF_STORE=f"file://{tmp_path / 'first'}"):
                restore(used.backup)
                AuditEntry.objects.filter(action="restore backup").delete()
                call_command("backup", str(tmp_path / "b.tar.gz"), stdout=io.StringIO())
            with Archive(tmp_path / "b.tar.gz") as archive:
                assert archive.header.engine == "postgresql"
            with databases.portal_on(engine):
                self.check(used, tmp_path / "b.tar.gz")

    def test_the_sample_has_rows_of_every_kind(self, used: Used) -> None:
        filled = {label for label, rows in used.rows.items() if rows}
        assert filled >= {
            "accounts.apitoken", "auth.user_groups", "admin.logentry", "catalog.adapter", "catalog.dataset",
            "fleet.link", "jobs.attempt", "jobs.transition", "jobs.allocation", "telemetry.metricpoint",
            "telemetry.logline", "telemetry.attemptevent",
        }  # fmt: skip
        assert len(used.rows["telemetry.metricpoint"]) == POINTS

    def test_a_database_that_is_migrated_and_empty_is_restored_into(self, used: Used, sqlite: Any) -> None:
        with databases.portal_on(sqlite()):
            migrate()
            self.check(used, used.backup)

    def test_replace_gives_up_what_there_was(self, used: Used, tmp_path: Path) -> None:
        with databases.portal_on(used.copy(tmp_path)):
            make_job(make_user("someone-else"))
            restore(used.backup, "--replace")
            assert without_the_restore(picture()) == used.rows

    def test_what_postgresql_cannot_hold_is_restored_as_a_replacement_character(
        self, sqlite: Any, tmp_path: Path
    ) -> None:
        with databases.postgresql() as target:
            with databases.portal_on(sqlite()):
                migrate()
                attempt = make_attempt(make_job())
                payload = {"a\0": ["\ud800 half", {"b": "\0"}], "whole": "\U0001f680"}
                AttemptEvent.objects.create(attempt=attempt, seq=1, at=0, type="result", payload=payload)
                call_command("backup", str(tmp_path / "b.tar.gz"), stdout=io.StringIO())
            with databases.portal_on(target):
                restore(tmp_path / "b.tar.gz")
                (event,) = AttemptEvent.objects.all()
                assert event.payload == {"a�": ["� half", {"b": "�"}], "whole": "\U0001f680"}


class TestFiles:
    def test_models_come_when_asked_for(self, used: Used, sqlite: Any, tmp_path: Path, settings: Settings) -> None:
        with databases.portal_on(used.copy(tmp_path)):
            store.put("store://models/m1/config.json", b'{"layers": 2}')
            call_command("backup", str(tmp_path / "b.tar.gz"), "--models", stdout=io.StringIO(), stderr=io.StringIO())
        settings.LIFTOFF_STORE = f"file://{tmp_path / 'other'}"
        with databases.portal_on(sqlite()):
            restore(tmp_path / "b.tar.gz")
        assert stored() == {"models/m1/config.json": b'{"layers": 2}'}

    def test_what_the_store_lost_is_named_and_the_rest_kept(self, used: Used, sqlite: Any, tmp_path: Path) -> None:
        errors = io.StringIO()
        with databases.portal_on(used.copy(tmp_path)):
            call_command("backup", str(tmp_path / "b.tar.gz"), stdout=io.StringIO(), stderr=errors)
        assert "store://jobs/1-1-aa/adapter" in errors.getvalue()
        with databases.portal_on(sqlite()):
            assert "store://jobs/1-1-aa/adapter" in restore(tmp_path / "b.tar.gz")
            assert Adapter.objects.count() == 1

    def test_it_is_its_owners_alone_and_never_written_over(self, used: Used, tmp_path: Path) -> None:
        file = used.backup
        assert file.stat().st_mode & 0o777 == 0o600
        kept = file.read_bytes()
        with databases.portal_on(used.copy(tmp_path)):
            with pytest.raises(CommandError, match="is there already"):
                call_command("backup", str(file))
            with pytest.raises(CommandError, match="can't be written: No such file or directory"):
                call_command("backup", str(tmp_path / "nowhere" / "b.tar.gz"))
        assert file.read_bytes() == kept

    def test_a_backup_that_fails_leaves_no_file(self, sqlite: Any, tmp_path: Path) -> None:
        folder = tmp_path / "backups"
        folder.mkdir()
        with databases.portal_on(sqlite()), pytest.raises(CommandError, match="no tables yet"):
            call_command("backup", str(folder / "b.tar.gz"))
        assert list(folder.iterdir()) == []

    def test_no_plain_secret_is_in_it(self, used: Used, tmp_path: Path, settings: Settings) -> None:
        with databases.portal_on(used.copy(tmp_path)):
            session = SessionStore()
            session["user"] = "admin"
            session.save()
            call_command("backup", str(tmp_path / "b.tar.gz"), stdout=io.StringIO(), stderr=io.StringIO())
        content = gzip.decompress((tmp_path / "b.tar.gz").read_bytes())
        secrets = (used.token, session.session_key, settings.SECRET_KEY, serve_token(1, 1), "correct horse battery")
        for secret in secrets:
            assert secret.encode() not in content
        assert b"admin" in content


def test_what_is_written_meanwhile_is_not_in_it_and_not_held_up(
    engine: Database, used: Used, sqlite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first table and the last, another process adds a job and its points."""
    parts = tables.parts
    with databases.portal_on(engine):
        restore(used.backup)
        before = picture()
        owner = User.objects.get()
        written = []

        def meanwhile(model: Any) -> Any:
            if not written:
                with databases.portal_on(engine):
                    written.append(make_attempt(make_job(owner)))
                    MetricPoint.objects.create(attempt=written[0], seq=1, name="loss", at=0, value=1)
            return parts(model)

        monkeypatch.setattr(tables, "parts", meanwhile)
        call_command("backup", str(tmp_path / "b.tar.gz"), stdout=io.StringIO())
        assert Attempt.objects.filter(pk=written[0].pk).exists()
    with databases.portal_on(sqlite()):
        restore(tmp_path / "b.tar.gz")
        assert without_the_restore(picture()) == before
