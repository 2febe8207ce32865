"""`manage.py demo`: the portal, and the main job from a model's name to a tuned model that answers."""

import json
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal.local import starter
from portal.local.demo import Demo, DemoFailed
from portal.local.management.commands.up import listen_address
from portal.local.stack import Stack, StartError, start_all, stop_on_signals


class Command(BaseCommand):
    help = "Fine-tune the starter model on the starter dataset, launch it quantized, ask it; then go on serving."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--exit", action="store_true", help="Stop after the demo; the exit status says if it held.")

    def handle(self, *args: Any, **options: Any) -> None:
        began = time.monotonic()
        stop_on_signals()
        stack = Stack(settings.LIFTOFF_HOME / "logs")
        starter.migrate()
        user, password = starter.admin_account()
        summary: dict[str, Any] = {}
        try:
            url = start_all(stack, *listen_address())
            self.stdout.write(f"Liftoff serves at {url} (logs in {stack.logs})")
            if password:
                self.stdout.write(f"Sign in as admin with the password {password} (shown this once)")
            demo = Demo(user, url, self.stdout, stack)
            summary = demo.run()
            summary["seconds"] = round(time.monotonic() - began, 1)
            if not options["exit"]:
                demo.say_where()
                self.stdout.write("Liftoff goes on serving; Ctrl-C ends it.")
                self.stdout.flush()
                while True:
                    time.sleep(1)
                    stack.keep_up()
            demo.stop_launch()
        except (StartError, DemoFailed, RuntimeError) as error:
            raise CommandError(str(error)) from None
        finally:
            stack.stop()
        self.stdout.write(json.dumps(summary))
        self.stdout.flush()
        if not held(summary):
            raise SystemExit(1)


def held(summary: dict[str, Any]) -> bool:
    """Whether the job succeeded and the tuned model's macro-F1 beats the base model's."""
    f1 = summary["f1"]
    return summary["fine_tune"]["status"] == "succeeded" and f1["tuned"] > f1["base"] and bool(summary["answer"])
