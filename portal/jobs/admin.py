"""Admin pages of jobs and attempts, to be read: services alone change their state."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from portal.admin_base import ReadOnlyAdmin, ReadOnlyInline, badge, size
from portal.jobs.models import Allocation, Attempt, Job, Leadership, Transition
from workers.contract.reasons import Reason


class AttemptInline(ReadOnlyInline):
    """The job's tries."""

    model = Attempt
    fields = ("number", "node", "reason", "detail", "dispatched_at", "started_at", "finished_at")
    show_change_link = True


class TransitionInline(ReadOnlyInline):
    """The job's timeline."""

    model = Transition
    fields = ("at", "attempt_number", "old", "new", "reason", "note")


class AllocationInline(ReadOnlyInline):
    """The devices an attempt holds or held."""

    model = Allocation
    fields = ("accelerator", "reserved", "released_at")
    readonly_fields = ("reserved",)

    @admin.display(description="Reserved")
    def reserved(self, allocation: Allocation) -> str:
        return "all of it" if allocation.reserved_bytes is None else size(allocation.reserved_bytes)


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin[Job]):
    """Every job. Submit, cancel and clone are on its own page of the portal."""

    list_display = (
        "id", "name", "kind", "shown_status", "owner", "attempt_number", "why",
        "created_at", "started_at", "finished_at",
    )  # fmt: skip
    list_display_links = ("id", "name")
    list_filter = ("status", "kind", "owner", "reason", "created_at")
    list_select_related = ("owner",)
    search_fields = ("=id", "name", "owner__username", "detail")
    date_hierarchy = "created_at"
    inlines = (AttemptInline, TransitionInline)

    @badge("Status", "status")
    def shown_status(self, job: Job) -> str:
        return job.status

    @admin.display(description="Why it ended", ordering="reason")
    def why(self, job: Job) -> str:
        return Reason(job.reason).sentence if job.reason else ""


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin[Attempt]):
    """Every try, with its order and its devices."""

    list_display = (
        "__str__", "node", "reason", "last_seq", "lease_until", "dispatched_at", "started_at", "finished_at",
    )  # fmt: skip
    list_filter = ("node", "reason", "dispatched_at")
    search_fields = ("=job__id", "job__name", "node__name", "detail")
    inlines = (AllocationInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attempt]:
        return super().get_queryset(request).select_related("job", "node")


@admin.register(Leadership)
class LeadershipAdmin(ReadOnlyAdmin[Leadership]):
    """Which controller leads."""

    list_display = ("name", "holder", "term", "until")
    search_fields = ("name", "holder")
