"""Django's registration of the pages app."""

from django.apps import AppConfig


class PagesConfig(AppConfig):
    name = "portal.pages"
