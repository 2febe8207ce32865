"""Django's registration of the fleet app."""

from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "portal.fleet"
