"""The list of jobs, the form for a new one, and stopping one. The job's own page is portal.pages."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.requests import SignedInRequest
from portal.jobs import selectors, services
from portal.jobs.forms import JobForm
from portal.jobs.lifecycle import Status
from portal.jobs.models import Job
from workers.contract.spec import SPECS

PAGE_SIZE = 25


@require_safe
@login_required
def job_list(request: SignedInRequest) -> HttpResponse:
    """Jobs, newest first, by status, kind and words."""
    chosen = {key: request.GET.get(key, "").strip() for key in ("status", "kind", "search")}
    if chosen["status"] not in ("live", *Status):
        chosen["status"] = ""
    page = _page(selectors.jobs(**chosen), request.GET.get("page", ""))
    query = request.GET.copy()
    query.pop("page", None)
    return render(
        request,
        "jobs/list.html",
        {"page": page, "chosen": chosen, "statuses": list(Status), "kinds": list(SPECS), "query": query.urlencode()},
    )


def _page(rows: QuerySet[Job], number: str) -> Page[Job]:
    """One page, the first for a number that is none. Jobs are counted only where the rows of the page don't tell how
    many there are: a search looks at all of them."""
    pages = Paginator(rows, PAGE_SIZE)
    wanted = int(number) if number.isdecimal() and 0 < len(number) < 9 else 1
    start = max(wanted - 1, 0) * PAGE_SIZE
    found = list(rows[start : start + PAGE_SIZE + 1])
    if wanted < 1 or (start and not found):
        return pages.get_page(number)
    if len(found) <= PAGE_SIZE:
        pages.count = start + len(found)
    return Page(found[:PAGE_SIZE], wanted, pages)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def job_new(request: SignedInRequest) -> HttpResponse:
    """The form for a new job: empty, prefilled by the query, or a clone of `?from=`."""
    source = request.GET.get("from", "")
    cloned = get_object_or_404(Job, pk=int(source)) if source.isdecimal() and len(source) < 18 else None
    kind = cloned.kind if cloned else request.GET.get("kind", "finetune")
    if kind not in SPECS:
        kind = "finetune"
    prefill = dict(cloned.spec) if cloned else {key: value for key, value in request.GET.items() if key != "kind"}
    if cloned:
        # A new run makes a new adapter; a launch keeps the one it serves.
        prefill.pop("name", None)
        if kind == "finetune":
            prefill.pop("adapter", None)
    form = JobForm(kind, data=request.POST or None, spec=prefill)
    if request.method == "POST" and (job := form.submit(request.user, cloned)):
        return redirect("job", pk=job.pk)
    status = 422 if form.is_bound else 200
    return render(request, "jobs/new.html", {"form": form, "kind": kind, "cloned": cloned}, status=status)


@require_POST
@login_required
def job_cancel(request: SignedInRequest, pk: int) -> HttpResponse:
    """Stop a job."""
    job = services.cancel(get_object_or_404(Job, pk=pk), request.user)
    messages.info(request, f"Job #{job.pk} is {job.status}.")
    return redirect("job", pk=job.pk)
