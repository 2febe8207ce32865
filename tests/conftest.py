"""What every test may use: a skip that turns into a failure where nothing may be missing, and a Redis of its own for
each of several processes that test at the same time.
"""

import os
from typing import NoReturn

import pytest

LAST_DATABASE = 15
"""Of a Redis as it is by default; portals use the first ones."""


def missing(reason: str) -> NoReturn:
    """Skip for want of something, or fail where LIFTOFF_REQUIRE_ALL says that all of it must be there."""
    if os.environ.get("LIFTOFF_REQUIRE_ALL") == "1":
        pytest.fail(f"required here, but {reason}")
    pytest.skip(reason)


def redis_database() -> int:
    """The number of the Redis database that this one of the testing processes may empty."""
    return LAST_DATABASE - int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def pytest_configure() -> None:
    if url := os.environ.get("TEST_REDIS_URL"):
        os.environ["TEST_REDIS_URL"] = f"{url.rpartition('/')[0]}/{redis_database()}"
