"""`manage.py restore FILE`: what a backup holds, back into this database and store."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from portal.local.backup.archive import BackupError
from portal.local.backup.restore import restore


class Command(BaseCommand):
    help = "Restore a backup into an empty database, or with --replace in place of what it has. Stop the portal first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="What `manage.py backup` made.")
        parser.add_argument("--replace", action="store_true", help="Give up everything that is in the database now.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = restore(options["file"], replace=options["replace"])
        except BackupError as error:
            raise CommandError(str(error)) from None
        for uri in done.missing:
            self.stderr.write(f"{uri} was not in the store when the backup was made.")
        self.stdout.write(
            f"Restored {done.rows} rows and {done.files} files of {done.made_at}, made by Liftoff {done.liftoff}; "
            f"{done.migrated} migrations ran forward. Everyone signs in again."
        )
