"""`liftoff`: the portal from a terminal, over REST. Knows nothing of Django or of the portal's own code.

LIFTOFF_URL names the portal (http://127.0.0.1:8000), LIFTOFF_TOKEN is an API token. Exit status: 0 done, 1 the job
failed or was cancelled, 2 wrong usage or refused, 4 the portal can't be reached.
"""

from portal.cli.commands import main

__all__ = ["main"]
