"""Django's registration of the local app."""

from django.apps import AppConfig


class LocalConfig(AppConfig):
    name = "portal.local"
