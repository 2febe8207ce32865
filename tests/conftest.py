"""What every test may use: a skip that turns into a failure where nothing may be missing."""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip for want of something, or fail where LIFTOFF_REQUIRE_ALL says that all of it must be there."""
    if os.environ.get("LIFTOFF_REQUIRE_ALL") == "1":
        pytest.fail(f"required here, but {reason}")
    pytest.skip(reason)
