"""Pages of the jobs app."""

from django.urls import path

from portal.jobs import views

urlpatterns = [
    path("jobs/", views.job_list, name="jobs"),
    path("jobs/new/", views.job_new, name="job-new"),
    path("jobs/<int:pk>/cancel/", views.job_cancel, name="job-cancel"),
]
