"""Django's registration of the telemetry app."""

from django.apps import AppConfig


class TelemetryConfig(AppConfig):
    name = "portal.telemetry"
