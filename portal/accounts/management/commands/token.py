"""`manage.py token USER NAME`: an API token for a machine, where there is no browser to make one in."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from portal.accounts.services import create_token


class Command(BaseCommand):
    help = "Make an API token and print it, once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="Whose token it is, e.g. admin.")
        parser.add_argument("name", help="What it is for, e.g. ci.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            user = User.objects.get(username=options["user"], is_active=True)
        except User.DoesNotExist:
            names = ", ".join(User.objects.values_list("username", flat=True)[:5]) or "none"
            raise CommandError(f"user: there is no user named {options['user']!r}; there are {names}.") from None
        self.stdout.write(create_token(user, options["name"])[1])
