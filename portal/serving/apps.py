"""Django's registration of the serving app."""

from django.apps import AppConfig


class ServingConfig(AppConfig):
    name = "portal.serving"
