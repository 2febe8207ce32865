"""A PostgreSQL and a Redis of a bench's own, with Django set up on them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.services import Postgres, Redis
from tests.stack import ROOT


@contextmanager
def own_services(prefix: str) -> Iterator[Path]:
    """The folder of both; gone afterwards. Exits with a sentence where PostgreSQL isn't installed."""
    home = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir="/tmp"))
    home.chmod(0o755)
    broker = Redis(home)
    postgres = None
    try:
        try:
            postgres = Postgres(home / "postgres")
        except LookupError as error:
            sys.exit(f"This bench is of PostgreSQL, but {error}.")
        postgres.start()
        broker.start()
        os.environ.update(
            DJANGO_SETTINGS_MODULE="portal.settings",
            DATABASE_URL=postgres.create("liftoff"),
            REDIS_URL=broker.url,
            LIFTOFF_HOME=str(home / "portal"),
            LIFTOFF_SECRET_KEY="bench",
            LIFTOFF_LOG_LEVEL="WARNING",
        )
        import django

        django.setup()
        subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=ROOT, check=True)
        yield home
    finally:
        from django.db import connections

        connections.close_all()
        broker.kill()
        if postgres:
            postgres.stop("immediate")
        shutil.rmtree(home, ignore_errors=True)
