"""The database's tables as a state of migrations: which one it is in, and how it gets into another.

Knows nothing of rows or files.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from django.apps.registry import Apps
from django.core.management.sql import emit_post_migrate_signal
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from portal.local.backup import tables
from portal.local.backup.archive import BackupError

Name = tuple[str, str]
"""(app, name) of a migration."""

MADE_BY_MIGRATING = frozenset({"contenttypes.contenttype", "auth.permission"})
"""Tables that a fresh database has rows in."""
LOCK_WAIT_S = 20


def applied() -> list[Name]:
    """The migrations that the database has had. Raises BackupError at one that this Liftoff doesn't have."""
    loader = MigrationLoader(connection)
    names = sorted(loader.applied_migrations)
    if unknown := first_unknown(names, loader):
        raise BackupError(
            f"The database was migrated to {unknown[0]}.{unknown[1]}, which this Liftoff doesn't have; "
            "use the version that did so, or a newer one."
        )
    return names


def first_unknown(names: Iterable[Name], loader: MigrationLoader | None = None) -> Name | None:
    """The first of the migrations that this Liftoff doesn't have."""
    graph = (loader or MigrationLoader(None)).graph
    return next((name for name in names if name not in graph.nodes), None)


def models_at(names: Iterable[Name]) -> Apps:
    """Models of the tables as they are after these migrations."""
    apps: Apps = MigrationLoader(None).project_state(list(names)).apps
    return apps


def is_empty(apps: Apps) -> bool:
    """Whether nobody has put a row into the database."""
    return not any(
        model._base_manager.exists()
        for label, model in tables.tables(apps).items()
        if label not in MADE_BY_MIGRATING and label != tables.SESSIONS
    )


@contextmanager
def one_transaction() -> Iterator[None]:
    """All or nothing, tables included. SQLite checks foreign keys when asked only, or it couldn't change tables."""
    connection.disable_constraint_checking()
    try:
        with transaction.atomic():
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'")
            yield
    finally:
        connection.enable_constraint_checking()


def rebuild(names: Iterable[Name]) -> Apps:
    """Drop every table and make them again, empty, as they are after these migrations; their models."""
    old = tables.tables(models_at(applied()))
    present = set(connection.introspection.table_names())
    with connection.schema_editor() as editor:
        for model in reversed(old.values()):
            if model._meta.db_table in present and not model._meta.auto_created:  # those go with their owners
                editor.delete_model(model)
    if MigrationRecorder(connection).has_table():
        MigrationRecorder(connection).flush()
    _migrate(_last_of(names))
    apps = models_at(names)
    for model in reversed(tables.tables(apps).values()):  # what a migration itself put there
        model._base_manager.all().delete()
    return apps


def forward() -> list[Name]:
    """Run what is left of this Liftoff's migrations; which those were."""
    before = set(applied())
    _migrate(MigrationLoader(connection).graph.leaf_nodes())
    emit_post_migrate_signal(verbosity=0, interactive=False, db=connection.alias)
    return [name for name in applied() if name not in before]


def _migrate(targets: list[Name]) -> None:
    executor = MigrationExecutor(connection, _settle)
    executor.migrate(targets)


def _settle(action: str, *_: object) -> None:
    """Check what the last migration wrote before the next one: PostgreSQL changes no table that has checks to come,
    and all are in one transaction."""
    if action == "apply_start" and connection.vendor == "postgresql":
        connection.check_constraints()


def _last_of(names: Iterable[Name]) -> list[Name]:
    """Those that no other migration of their app, among these, comes after."""
    graph = MigrationLoader(None).graph
    wanted = set(names)
    return [
        name
        for name in sorted(wanted)
        if not any(child.key[0] == name[0] and child.key in wanted for child in graph.node_map[name].children)
    ]
