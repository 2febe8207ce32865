"""`manage.py backup FILE`: database and artifacts into one file, while the portal runs."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import filesizeformat

from portal.local.backup.archive import BackupError
from portal.local.backup.make import make


class Command(BaseCommand):
    help = "Back up the database, and the stored adapters and datasets, to one file."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="A new file, e.g. liftoff-2026-11-30.tar.gz.")
        parser.add_argument("--models", action="store_true", help="Also the weights of models in the store.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            made = make(options["file"], models=options["models"])
        except BackupError as error:
            raise CommandError(str(error)) from None
        for uri in made.missing:
            self.stderr.write(f"{uri} is named in the catalog, but the store has nothing there.")
        self.stdout.write(
            f"{options['file']}: {made.rows} rows and {made.files} files, "
            f"{filesizeformat(made.bytes)} in {filesizeformat(made.packed_bytes)}."
        )
