"""Django's registration of the catalog app."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    name = "portal.catalog"
