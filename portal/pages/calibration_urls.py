"""The page that compares predictions with measurements."""

from django.urls import path

from portal.pages import calibration_views

urlpatterns = [path("calibration/", calibration_views.calibration, name="calibration")]
