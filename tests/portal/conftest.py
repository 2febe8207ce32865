"""A portal for one test: its own artifact store, and a real Redis where the test asks for `live_redis`."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pytest_django.fixtures import Settings

from portal.jobs import dispatch
from tests.conftest import missing


@pytest.fixture(autouse=True)
def own_store(settings: Settings, tmp_path: Path) -> Path:
    """Artifacts of a test stay in its own folder; so does what it may read."""
    settings.LIFTOFF_STORE = f"file://{tmp_path / 'store'}"
    settings.LIFTOFF_ALLOWED_ROOTS = (str(tmp_path),)
    settings.LIFTOFF_GATEWAY_REMEMBERS_S = 0  # the next test's database is another
    return tmp_path


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis: TEST_REDIS_URL, else the bundled one started here."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    from portal.local.stack import StartError, redis_binary

    try:
        binary = redis_binary()
    except StartError as error:
        missing(str(error))
    home = Path("/tmp") / f"liftoff-test-{os.getpid()}"
    home.mkdir(mode=0o700)
    socket = home / "valkey.sock"
    command = [binary, "--port", "0", "--unixsocket", str(socket), "--dir", str(home), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"unix://{socket}?db=0"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            redis.Redis.from_url(url).ping()
            break
        except redis.RedisError:
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def live_redis(redis_server: str, settings: Settings) -> Iterator["redis.Redis"]:
    """An empty Redis database that the portal uses for this test."""
    settings.REDIS_URL = redis_server
    layer = {"hosts": [{"address": redis_server, "socket_timeout": 30}]}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": layer}}
    dispatch._celery.cache_clear()
    client = redis.Redis.from_url(redis_server, decode_responses=True)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()
    dispatch._celery.cache_clear()
