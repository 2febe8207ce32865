"""`manage.py sweep`: delete what is beyond the limits of LIFTOFF_KEEP_*, or list it with --dry-run."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from portal.telemetry.retention import sweep_once


class Command(BaseCommand):
    help = "Delete what of finished jobs, and of what happened to nodes, is beyond the LIFTOFF_KEEP_* limits."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Only list what would go, and why.")

    def handle(self, *args: Any, **options: Any) -> None:
        more = True
        found = False
        while more:
            sweep = sweep_once(timezone.now(), dry_run=options["dry_run"])
            for item in sweep.gone:
                self.stdout.write(str(item))
            if sweep.gone:
                self.stdout.write(("Would delete " if options["dry_run"] else "Deleted ") + sweep.totals() + ".")
            found, more = found or bool(sweep.gone), sweep.more
        if not found:
            self.stdout.write("Nothing is beyond the limits.")
