"""What every test may use: a skip that turns into a failure where nothing may be missing, and a Redis of its own for
each of several processes that test at the same time.
"""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip for want of something, or fail where LIFTOFF_REQUIRE_ALL says that all of it must be there."""
    if os.environ.get("LIFTOFF_REQUIRE_ALL") == "1":
        pytest.fail(f"required here, but {reason}")
    pytest.skip(reason)


def own_database(url: str) -> str:
    """The Redis database that this one of the testing processes may empty: the one named, or one before it."""
    server, _, last = url.rpartition("/")
    return f"{server}/{int(last) - int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))}"


def pytest_configure() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more, and files are tested at once
    if url := os.environ.get("TEST_REDIS_URL"):
        os.environ["TEST_REDIS_URL"] = own_database(url)
