"""The chat page of a launch: the chat once the model answers, else what it waits for; and the playground, where two
models answer the same prompt. Reads, writes nothing.

Knows nothing of the conversation: the browser holds it and asks the gateway.
"""

from dataclasses import dataclass

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from portal.accounts.requests import SignedInRequest
from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.catalog.selectors import get_adapter
from portal.jobs.lifecycle import FINAL, Status
from portal.jobs.models import Job
from portal.jobs.selectors import get_job
from portal.serving import models_list
from portal.serving.selectors import JOB_PREFIX, live_endpoint, request_name
from workers.contract.launch import LaunchSpec
from workers.contract.prompts import label_instruction

EXAMPLES = 3
EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class Training:
    """What a classifying adapter learned: the words it was asked with, and texts like those it saw."""

    dataset: str
    system: str
    examples: tuple[str, ...]


@require_safe
@login_required
def chat(request: SignedInRequest, pk: int) -> HttpResponse:
    """Chat with the model that launch `pk` serves; where it serves none, say why and what to do."""
    try:
        job = get_job(pk)
    except Job.DoesNotExist:
        raise Http404(f"There is no job #{pk}.") from None
    endpoint = live_endpoint(job) if job.kind == "launch" else None
    if endpoint is None:
        final = Status(job.status) in FINAL
        made = Adapter.objects.select_related("base_model").filter(job_number=job.pk).first()
        made_model = ModelProfile.objects.filter(job_number=job.pk).first()
        waits = job.kind == "launch" and not final and job.status != Status.CANCELLING
        return render(
            request,
            "serving/not_ready.html",
            {"job": job, "final": final, "made": made, "made_model": made_model, "waits": waits},
        )
    spec = LaunchSpec.model_validate(job.spec)
    training = _training(spec.adapter)
    context = {
        "job": job,
        "spec": spec,
        "endpoint": endpoint,
        "training": training,
        "curl": {
            "url": request.build_absolute_uri("/v1"),
            "model": request_name(endpoint),
        },
    }
    return render(request, "serving/chat.html", context)


def _training(adapter: str | None) -> Training | None:
    """How to put a text to the adapter; None for a base model and for adapters that don't classify."""
    if adapter is None:
        return None
    try:
        dataset = get_adapter(adapter).dataset
    except Adapter.DoesNotExist:
        return None
    if dataset is None or dataset.format != Dataset.Format.TEXT_LABEL or not dataset.labels:
        return None
    texts = (str(row.get("text", "")) for row in dataset.preview)
    short = [text for text in texts if 0 < len(text) <= EXAMPLE_CHARACTERS]
    return Training(dataset.name, label_instruction(dataset.labels), tuple(short[:EXAMPLES]))


@require_safe
@login_required
def playground(request: SignedInRequest) -> HttpResponse:
    """Any launched model, or two side by side. `?model=` and `?with=` choose them: a name, or 'job-<id>'."""
    choices = models_list.choices()
    names = [_name(request.GET.get(key, ""), choices) for key in ("model", "with")]
    first = names[0] or (choices[0].name if choices else "")
    context = {
        "choices": choices,
        "panes": [("one", "Model", first), ("two", "Beside it", names[1])],
        "url": request.build_absolute_uri("/v1"),
    }
    return render(request, "serving/playground.html", context)


def _name(asked: str, choices: list[models_list.Choice]) -> str:
    """The name of the choice that is meant; '' for none."""
    return next((choice.name for choice in choices if asked in (choice.name, f"{JOB_PREFIX}{choice.launch}")), "")
