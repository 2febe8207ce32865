"""`manage.py up`: the portal on this machine, until Ctrl-C."""

import os
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal.local import starter
from portal.local.stack import Stack, StartError, start_all, stop_on_signals


class Command(BaseCommand):
    help = "Start Redis (unless REDIS_URL is set), the web server, the controller and one worker."

    def handle(self, *args: Any, **options: Any) -> None:
        stop_on_signals()
        stack = Stack(settings.LIFTOFF_HOME / "logs")
        starter.migrate()
        _, password = starter.admin_account()
        try:
            url = start_all(stack, *listen_address())
            self.stdout.write(f"Liftoff serves at {url} (logs in {stack.logs}; Ctrl-C ends it)")
            if password:
                self.stdout.write(f"Sign in as admin with the password {password} (shown this once)")
            self.stdout.flush()
            while True:
                time.sleep(1)
                stack.keep_up()
        except StartError as error:
            raise CommandError(str(error)) from None
        finally:
            stack.stop()


def listen_address() -> tuple[str, int]:
    """(host, port) from LIFTOFF_HOST and LIFTOFF_PORT. Raises CommandError for a port that is none."""
    port = os.environ.get("LIFTOFF_PORT", "8000")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise CommandError(f"LIFTOFF_PORT: {port!r} is no port; use 1 to 65535.")
    return os.environ.get("LIFTOFF_HOST", "127.0.0.1"), int(port)
