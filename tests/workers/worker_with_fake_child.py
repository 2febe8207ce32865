"""A whole worker process whose orders run the fake child; set up by the environment like the real one."""

import logging
import os
import sys

from tests.workers.conftest import FAKE_CHILD
from workers.__main__ import serve
from workers.settings import from_environment

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(serve(from_environment(os.environ), command=FAKE_CHILD))
