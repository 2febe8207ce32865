"""Every URL of the portal, by app."""

from django.contrib import admin
from django.urls import include, path

from portal.api.router import api
from portal.telemetry.exporter import metrics

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/v1/", api.urls),
    path("v1/", include("portal.serving.urls")),
    path("metrics", metrics, name="metrics"),
    path("", include("portal.accounts.urls")),
    path("", include("portal.catalog.urls")),
    path("", include("portal.jobs.urls")),
    path("", include("portal.pages.node_urls")),
    path("", include("portal.pages.calibration_urls")),
    path("", include("portal.serving.page_urls")),
    path("", include("portal.pages.urls")),
]
