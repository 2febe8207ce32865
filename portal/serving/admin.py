"""Admin pages of endpoints and load tests, to be read."""

from django.contrib import admin

from portal.admin_base import ReadOnlyAdmin
from portal.jobs.lifecycle import Status
from portal.serving.models import Endpoint, LoadTest


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin[Endpoint]):
    """Where launched models answer or answered."""

    list_display = ("model_name", "url", "attempt", "live", "ready_at")
    list_filter = ("model_name", "ready_at")
    list_select_related = ("attempt__job",)
    search_fields = ("model_name", "url", "=attempt__job__id")

    @admin.display(boolean=True, description="Live")
    def live(self, endpoint: Endpoint) -> bool:
        job = endpoint.attempt.job
        return job.status == Status.RUNNING and job.attempt_number == endpoint.attempt.number


@admin.register(LoadTest)
class LoadTestAdmin(ReadOnlyAdmin[LoadTest]):
    """What each load test found."""

    list_display = ("attempt", "launch", "served_as", "engine", "quantization", "devices", "at")
    list_filter = ("engine", "quantization", "at")
    list_select_related = ("attempt__job", "launch")
    search_fields = ("model", "served_as", "=launch__id", "=attempt__job__id")
