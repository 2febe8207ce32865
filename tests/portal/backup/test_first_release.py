"""What a portal of the first release holds is there after today's migrations, whichever way it came."""

import io
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from portal.accounts.models import AuditEntry
from portal.jobs.models import Attempt, Job
from portal.local.backup import schema, tables
from portal.local.backup.archive import Archive
from tests.portal.backup import databases
from tests.portal.backup.conftest import Database, Rows, columns, migrate, picture, restore


def first_release() -> list[tuple[str, str]]:
    """The last migration of each app that the first release had: its own apps' first, the libraries' all."""
    loader = MigrationExecutor(connection).loader
    own = {app for app, name in loader.graph.nodes if loader.get_migration(app, name).__module__.startswith("portal.")}
    return [(app, "0001_initial" if app in own else name) for app, name in sorted(loader.graph.leaf_nodes())]


def fill_first_release() -> Rows:
    """A portal of the first release in use, through that release's own tables; its columns and rows."""
    MigrationExecutor(connection).migrate(first_release())
    apps = schema.models_at(schema.applied())
    model = {label: apps.get_model(label) for label in (
        "auth.User", "accounts.ApiToken", "accounts.AuditEntry", "catalog.ModelProfile", "catalog.Dataset",
        "catalog.Adapter", "fleet.Node", "fleet.Accelerator", "fleet.Link", "jobs.Job", "jobs.Attempt",
        "jobs.Allocation", "jobs.Transition", "serving.Endpoint", "telemetry.MetricPoint", "telemetry.LogLine",
        "telemetry.AttemptEvent",
    )}  # fmt: skip
    user = model["auth.User"].objects.create(username="ada", password="hashed")
    model["accounts.ApiToken"].objects.create(user=user, name="ci", prefix="lift_x", digest="d" * 64)
    model["accounts.AuditEntry"].objects.create(user=user, action="submit job", target="job #1")
    base = model["catalog.ModelProfile"].objects.create(name="m", source="hub", uri="hub://o/m", config={"a": 1})
    dataset = model["catalog.Dataset"].objects.create(
        name="d", format="text", source="f", train_uri="store://datasets/d/train.jsonl", sha256="0" * 64, train_rows=1
    )
    model["catalog.Adapter"].objects.create(
        name="a", base_model=base, dataset=dataset, uri="store://jobs/1-1-t/adapter"
    )
    node = model["fleet.Node"].objects.create(name="n", labels={"zone": "a"})
    devices = [
        model["fleet.Accelerator"].objects.create(node=node, kind="cuda", index=index, name="G", memory_bytes=2**34)
        for index in range(2)
    ]
    model["fleet.Link"].objects.create(node=node, a=0, b=1, kind="nvlink")
    for number, status in enumerate(["queued", "dispatched", "running", "cancelling", "succeeded", "failed"]):
        job = model["jobs.Job"].objects.create(
            name=f"job {status}",
            kind="finetune",
            status=status,
            owner=user,
            spec={"kind": "finetune", "spec_version": 1, "model": "m", "dataset": "d"},
            attempt_number=int(status != "queued"),
        )
        model["jobs.Transition"].objects.create(job=job, new="queued")
        if status == "queued":
            continue
        order = {"job": job.pk, "attempt": 1, "token": "t", "result_uri": f"store://jobs/{job.pk}-1-t"}
        attempt = model["jobs.Attempt"].objects.create(job=job, number=1, node=node, order=order, last_seq=3)
        if status in ("running", "cancelling"):
            model["jobs.Allocation"].objects.create(attempt=attempt, accelerator=devices[number % 2])
        model["telemetry.MetricPoint"].objects.create(attempt=attempt, seq=1, name="loss", step=1, at=1, value=0.5)
        model["telemetry.LogLine"].objects.create(attempt=attempt, seq=2, at=2, stream="out", text="hello")
        model["telemetry.AttemptEvent"].objects.create(attempt=attempt, seq=3, at=3, type="result", payload={"a": 1})
        if status == "running":
            model["serving.Endpoint"].objects.create(attempt=attempt, url="http://n:1", model_name="m")
    return picture()


def check_survived(before: Rows, then_columns: dict[str, tuple[str, ...]]) -> None:
    """Every row of the first release is there under today's models, each of its columns unchanged."""
    models = tables.tables(schema.models_at(schema.applied()))
    for label, rows in before.items():
        if label in schema.MADE_BY_MIGRATING:
            continue
        kept = [column for column in then_columns[label] if column in tables.columns(models[label])]
        then = [
            {name: value for name, value in zip(then_columns[label], row, strict=True) if name in kept} for row in rows
        ]
        now = list(models[label]._base_manager.order_by("pk").values(*kept))
        assert now[: len(then)] == then, label


class TestFirstRelease:
    def test_its_database_is_migrated_forward_with_all_it_holds(self, engine: Database) -> None:
        with databases.portal_on(engine):
            before, its_columns = fill_first_release(), columns()
            migrate()
            check_survived(before, its_columns)
            # What today's code reads of it is of use.
            assert {job.spec["model"] for job in Job.objects.all()} == {"m"}
            assert Attempt.objects.filter(job__status="running").get().metric_points.get().value == 0.5
            call_command("migrate", "--check", verbosity=0)

    def test_its_backup_is_restored_and_migrated_forward(self, engine: Database, sqlite: Any, tmp_path: Path) -> None:
        with databases.portal_on(sqlite()):
            before, its_columns = fill_first_release(), columns()
            call_command("backup", str(tmp_path / "b.tar.gz"), stdout=io.StringIO())
            with Archive(tmp_path / "b.tar.gz") as archive:
                behind = len(archive.header.migrations)
        with databases.portal_on(engine):
            migrate()  # to today's tables, which the backup is older than
            said = restore(tmp_path / "b.tar.gz")
            check_survived(before, its_columns)
            assert f"{len(schema.applied()) - behind} migrations ran forward" in said
            assert len(schema.applied()) > behind
            assert AuditEntry.objects.filter(action="restore backup").exists()
            assert Job.objects.create(name="next", kind="finetune", spec={}, owner=User.objects.get()).pk == 7
