"""Django's registration of the accounts app."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "portal.accounts"
