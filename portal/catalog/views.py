"""Pages of models, datasets and adapters. What a job does with them is told by links to its page."""

from collections.abc import Callable
from typing import TypeVar

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied
from django.core.paginator import Page, Paginator
from django.db.models import Count, Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.requests import SignedInRequest
from portal.catalog import selectors, services
from portal.catalog.charts import histogram
from portal.catalog.forms import DatasetForm, ModelForm
from portal.catalog.models import ModelProfile
from workers.contract.checkpoint import stored_as
from workers.contract.errors import Refused
from workers.contract.names import SLUG
from workers.contract.quantize import QuantizeReport

PAGE_SIZE = 25

Record = TypeVar("Record", bound=Model)


@require_safe
@login_required
def model_list(request: SignedInRequest) -> HttpResponse:
    """Every model, by name."""
    rows = selectors.models().annotate(adapter_count=Count("adapters"))
    return render(request, "catalog/models.html", {"page": _page(request, rows)})


@require_safe
@login_required
def model_page(request: SignedInRequest, name: str) -> HttpResponse:
    """What one model says of itself, and the adapters and models made of it."""
    model = _find(selectors.get_model, "model", name)
    context = {
        "model": model,
        "adapters": selectors.adapters().filter(base_model=model),
        "stored": stored_as(model.config),
        "quantized": QuantizeReport.model_validate(model.measured) if model.measured else None,
        "made": selectors.models().filter(base_model=model),
        "may_approve": request.user.has_perm("catalog.change_modelprofile"),
    }
    return render(request, "catalog/model.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def model_new(request: SignedInRequest) -> HttpResponse:
    """The form that adds a model."""
    form = ModelForm(request.POST if request.method == "POST" else None)
    if form.is_bound and (model := form.save(request.user)):
        messages.success(request, f"Added {model.name}.")
        return redirect("model", name=model.name)
    return render(request, "catalog/model_new.html", {"form": form}, status=422 if form.is_bound else 200)


@require_POST
@login_required
def model_remote_code(request: SignedInRequest, name: str) -> HttpResponse:
    """Approve (`approved=yes`) or withdraw that the model's own Python code may run."""
    if not request.user.has_perm("catalog.change_modelprofile"):
        raise PermissionDenied("Only who may change models decides whether their own code may run.")
    model: ModelProfile = _find(selectors.get_model, "model", name)
    approved = request.POST.get("approved") == "yes"
    try:
        services.set_remote_code(request.user, model, approved)
    except Refused as refused:
        messages.error(request, str(refused))
    else:
        messages.success(request, f"Remote code {f'approved at {model.revision}' if approved else 'withdrawn'}.")
    return redirect("model", name=model.name)


@require_safe
@login_required
def dataset_list(request: SignedInRequest) -> HttpResponse:
    """Every dataset, by name."""
    return render(request, "catalog/datasets.html", {"page": _page(request, selectors.datasets())})


@require_safe
@login_required
def dataset_page(request: SignedInRequest, name: str) -> HttpResponse:
    """One dataset: its rows, their lengths, and the adapters trained on it."""
    dataset = _find(selectors.get_dataset, "dataset", name)
    context = {
        "dataset": dataset,
        "chart": histogram(dataset.token_histogram),
        "columns": list(dataset.preview[0] if dataset.preview else ()),
        "adapters": selectors.adapters().filter(dataset=dataset),
    }
    return render(request, "catalog/dataset.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def dataset_new(request: SignedInRequest) -> HttpResponse:
    """The form that adds a dataset."""
    form = DatasetForm(request.POST, request.FILES) if request.method == "POST" else DatasetForm()
    if form.is_bound and (dataset := form.save(request.user)):
        about, said = ("about ", "the rows looked at are") if dataset.shard_count else ("", "every row is")
        rows = f"{about}{dataset.train_rows} training rows, {dataset.test_rows} test rows"
        messages.success(request, f"Added {dataset.name}: {rows}; {said} good.")
        return redirect("dataset", name=dataset.name)
    return render(request, "catalog/dataset_new.html", {"form": form}, status=422 if form.is_bound else 200)


@require_safe
@login_required
def adapter_list(request: SignedInRequest) -> HttpResponse:
    """Every adapter, newest first."""
    return render(request, "catalog/adapters.html", {"page": _page(request, selectors.adapters())})


def _page(request: HttpRequest, rows: QuerySet[Record]) -> Page[Record]:
    return Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))


def _find(get: Callable[[str], Record], what: str, name: str) -> Record:
    try:
        if SLUG.fullmatch(name):
            return get(name)
    except ObjectDoesNotExist:
        pass
    raise Http404(f"There is no {what} of this name.")
