"""Databases of a test's own, any of which can stand in for the portal's: a SQLite file, or one made in PostgreSQL."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dj_database_url
import psycopg
from django.db import connections
from django.db.utils import load_backend
from psycopg import sql

from portal.settings import SQLITE_OPTIONS
from tests.conftest import missing


def sqlite(folder: Path, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a new SQLite file in the folder; of a copy of `like`, which nobody may have open."""
    path = folder / f"{uuid.uuid4().hex}.sqlite3"
    if like:
        shutil.copyfile(like["NAME"], path)
    return {**dj_database_url.parse(f"sqlite:///{path}"), "OPTIONS": dict(SQLITE_OPTIONS)}


@contextmanager
def postgresql() -> Iterator[dict[str, Any]]:
    """Settings of a new database in the server of TEST_DATABASE_URL, which is dropped in the end."""
    url = os.environ.get("TEST_DATABASE_URL")
    if not url:
        missing("TEST_DATABASE_URL is unset: no PostgreSQL to make a database in")
    name = f"liftoff_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield {**dj_database_url.parse(url), "NAME": name}
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def portal_on(database: dict[str, Any]) -> Iterator[None]:
    """The portal's code, its commands included, works on this database."""
    before = connections["default"]
    complete = {**connections.databases["default"], "OPTIONS": {}, "CONN_MAX_AGE": 0, **database}
    connections["default"] = load_backend(complete["ENGINE"]).DatabaseWrapper(complete, "default")
    try:
        yield
    finally:
        connections["default"].close()
        connections["default"] = before
