"""Databases of either engine, a portal in use, and how it looks from outside."""

import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.conf import settings as django_settings
from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from django.test import override_settings
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from portal.accounts.services import create_token
from portal.catalog import store
from portal.jobs.models import Job
from portal.local.backup import schema, tables
from portal.telemetry.models import AttemptEvent, LogLine, MetricPoint
from tests.portal.backup import databases
from tests.portal.factories import make_adapter, make_attempt, make_dataset, make_job, make_model, make_node, make_user

Database = dict[str, Any]
"""Settings of a database, as Django has them."""
Rows = dict[str, list[tuple[Any, ...]]]
"""Label of a table to its rows."""
POINTS = 2500
"""More than one batch."""


@pytest.fixture(autouse=True)
def _unblocked(django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """These tests bring their own databases; the tests' common one is left alone."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def sqlite(tmp_path: Path) -> Callable[[], Database]:
    """Makes new databases."""
    return lambda: databases.sqlite(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A new database of either engine."""
    if request.param == "sqlite":
        yield databases.sqlite(tmp_path)
    else:
        with databases.postgresql() as server:
            yield server


class Used(NamedTuple):
    """A portal in use, and its backup. Only read; copy what is to be changed."""

    database: Database
    token: str
    rows: Rows
    files: dict[str, bytes]
    """Of the store, those that a backup holds."""
    backup: Path

    def copy(self, folder: Path) -> Database:
        return databases.sqlite(folder, self.database)


@pytest.fixture(scope="session")
def used(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker) -> Used:
    folder = tmp_path_factory.mktemp("used")
    database = databases.sqlite(folder)
    with django_db_blocker.unblock(), override_settings(LIFTOFF_STORE=f"file://{folder / 'store'}"):
        with databases.portal_on(database):
            migrate()
            token = fill()
            call_command("backup", str(folder / "b.tar.gz"), stdout=io.StringIO())
            rows = picture()
        left_out = ("models/", "jobs/1-1-aa/checkpoint/")
        files = {name: data for name, data in stored().items() if not name.startswith(left_out)}
    return Used(database, token, rows, files, folder / "b.tar.gz")


def migrate() -> None:
    call_command("migrate", interactive=False, verbosity=0)


def fill() -> str:
    """A portal in use: something in every table that a user's work fills, and files in the store; an API token."""
    admin = make_user("admin", staff=True)
    admin.groups.add(Group.objects.create(name="operators"))
    _, token = create_token(admin, "ci")
    LogEntry.objects.create(
        user=admin,
        content_type=ContentType.objects.get_for_model(User),
        object_id=str(admin.pk),
        object_repr="admin",
        action_flag=ADDITION,
    )
    SessionStore().create()
    store.put("store://datasets/d1/train.jsonl", b'{"text": "a"}\n' * 1000)
    store.put("store://datasets/d1/test.jsonl", b'{"text": "b"}\n')
    store.put("store://jobs/1-1-aa/adapter/adapter_config.json", b"{}")
    store.put("store://jobs/1-1-aa/adapter/deep/weights.safetensors", bytes(range(256)) * 5000)
    store.put("store://jobs/1-1-aa/checkpoint/state.bin", b"not asked for")
    store.put("store://models/m1/config.json", b'{"layers": 2}')
    model = make_model("m1", config={"nested": {"β": [1.5, None, True, "é \U0001f680"]}})
    dataset = make_dataset("d1", train_uri="store://datasets/d1/train.jsonl", test_uri="store://datasets/d1/test.jsonl")
    node = make_node("n1", devices=2, kind="cuda", labels={"zone": "a"})
    job = make_job(admin, spec={"model": model.name, "dataset": dataset.name}, idempotency_key="k")
    attempt = make_attempt(job, node=node, status="running", order={"result_uri": "store://jobs/1-1-aa"})
    make_job(admin, spec={"model": model.name, "dataset": dataset.name}, cloned_from=job)
    make_adapter("a1", base_model=model, dataset=dataset, uri="store://jobs/1-1-aa/adapter", job_number=job.pk)
    moment = timezone.now() - timedelta(days=400, microseconds=123456)
    Job.objects.filter(pk=job.pk).update(created_at=moment, finished_at=moment)
    MetricPoint.objects.bulk_create(
        MetricPoint(attempt=attempt, seq=seq, name="loss", step=seq, at=1e9 + seq / 3, value=1 / (seq + 1))
        for seq in range(POINTS)
    )
    LogLine.objects.create(
        attempt=attempt, seq=1, at=1.25, stream="out", text="tab\t, quote \", 'é' and \u2028 line\r\n"
    )
    AttemptEvent.objects.create(
        attempt=attempt, seq=2, at=2.5, type="result", payload={"values": {"f1": 0.5, "x": None}}
    )
    return token


def picture() -> Rows:
    """Every row of every table that is backed up."""
    models = tables.tables(schema.models_at(schema.applied()))
    return {
        label: list(model._base_manager.order_by("pk").values_list(*tables.columns(model)))
        for label, model in models.items()
        if label != tables.SESSIONS
    }


def stored() -> dict[str, bytes]:
    """Every file of the store."""
    root = Path(django_settings.LIFTOFF_STORE.removeprefix("file://"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def columns() -> dict[str, tuple[str, ...]]:
    """Label of every table to its columns."""
    models = tables.tables(schema.models_at(schema.applied()))
    return {label: tables.columns(model) for label, model in models.items()}


def without_the_restore(rows: Rows) -> Rows:
    """Less the audit log's line about the restore itself."""
    audit = rows["accounts.auditentry"]
    assert "restore backup" in audit[-1]
    return {**rows, "accounts.auditentry": audit[:-1]}


def restore(file: Path, *options: str) -> str:
    """Restore; what the command says."""
    output = io.StringIO()
    call_command("restore", str(file), *options, stdout=output, stderr=output)
    return output.getvalue()
