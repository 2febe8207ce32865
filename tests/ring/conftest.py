"""The whole stack, once on the embedded defaults and once on PostgreSQL and a Redis server."""

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests.conftest import missing
from tests.stack import Portal, running_portal


def _services() -> dict[str, str]:
    """DATABASE_URL of a new PostgreSQL database and REDIS_URL of an emptied Redis one."""
    database, server = os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_REDIS_URL")
    if not database or not server:
        missing("TEST_DATABASE_URL (PostgreSQL) and TEST_REDIS_URL are not set")
    name = f"liftoff_ring_{os.getpid()}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{name}"')
    redis.Redis.from_url(server).flushdb()
    return {"DATABASE_URL": f"{database.rsplit('/', 1)[0]}/{name}", "REDIS_URL": server}


def _drop() -> None:
    with psycopg.connect(os.environ["TEST_DATABASE_URL"], autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "liftoff_ring_{os.getpid()}" WITH (FORCE)')
    redis.Redis.from_url(os.environ["TEST_REDIS_URL"]).flushdb()


@pytest.fixture(scope="module", params=["embedded", "services"])
def portal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """A running portal with the tiny model and a dataset of tickets."""
    from tests import tiny_model

    env = _services() if request.param == "services" else {}
    home: Path = tmp_path_factory.mktemp(f"ring-{request.param}")
    with running_portal(home, **env) as running:
        tiny_model.build(home / "tiny")
        add = running.client.post("/api/v1/models", json={"name": "tiny", "uri": str(home / "tiny")})
        assert add.status_code == 201, add.text
        rows = "".join(f'{{"text": "case {n} of sort {"ab"[n % 2]}", "label": "{"ab"[n % 2]}"}}\n' for n in range(40))
        add = running.client.post("/api/v1/datasets", data={"name": "cases"}, files={"file": ("cases.jsonl", rows)})
        assert add.status_code == 201, add.text
        yield running
    if env:
        _drop()
