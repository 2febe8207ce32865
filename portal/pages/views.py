"""Home and the page of one job. Reads selectors of every app, writes nothing."""

from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from portal.accounts.requests import SignedInRequest
from portal.catalog import selectors as catalog
from portal.catalog.artifacts import list_artifact
from portal.fleet import selectors as fleet
from portal.jobs import selectors as jobs
from portal.jobs.forms import NOT_ASKED, flat, shown
from portal.jobs.measurements import rules
from portal.jobs.models import Job
from portal.pages import load_chart
from portal.pages.ds_config_text import ds_config_text
from portal.pages.sweep_chart import Drawing, drawing
from portal.telemetry.selectors import snapshot
from workers.contract.finetune import FinetuneSpec
from workers.contract.load_report import RESULT as LOAD_TEST
from workers.contract.load_report import LoadReport
from workers.contract.names import UnsafeURI
from workers.contract.preflight import RESULT, Report
from workers.contract.quantize import RESULT as QUANTIZED
from workers.contract.quantize import QuantizeReport
from workers.contract.sweep import RESULT as SWEEP
from workers.contract.sweep import Sweep

DRAWN = (
    "status",
    "reason",
    "attempt",
    "queue",
    "endpoint",
    "replicas",
    "adapter",
    "made_model",
    "artifacts",
    "results",
)
"""What of a snapshot the server draws: the page asks for it again when a newer snapshot differs."""

RESULT_ROWS = (
    ("accuracy", "Accuracy"), ("macro_f1", "Macro-F1"), ("reward_accuracy", "Chosen answer preferred"),
    ("reward_margin", "Reward margin"), ("loss", "Loss"), ("rows", "Rows"),
)  # fmt: skip


@require_safe
@login_required
def home(request: SignedInRequest) -> HttpResponse:
    """What runs, what waits, what is free; and the next step of a new user."""
    held = jobs.holders()
    nodes = [
        {
            "node": node,
            "online": fleet.is_online(node),
            "full": fleet.disk_is_nearly_full(node),
            "devices": [
                {"device": device, "holders": held.get(device.pk, [])}
                for device in node.accelerators.all()
                if device.present
            ],
        }
        for node in fleet.nodes()
    ]
    return render(
        request,
        "home.html",
        {
            "live": jobs.jobs(status="live")[:8],
            "recent": jobs.jobs().filter(finished_at__isnull=False)[:8],
            "nodes": nodes,
            "adapters": catalog.adapters()[:6],
            "models": catalog.models().count(),
            "datasets": catalog.datasets().count(),
        },
    )


@require_safe
@login_required
def job_page(request: SignedInRequest, pk: int) -> HttpResponse:
    """One job, live. With `?part=state` only what a change of state redraws."""
    try:
        job = jobs.get_job(pk)
    except Job.DoesNotExist:
        raise Http404(f"There is no job #{pk}.") from None
    seen = snapshot(job)
    context = {
        "job": seen,
        "record": job,
        "drawn": {key: seen[key] for key in DRAWN},
        "comparison": _comparison(seen["results"]),
        "training": seen["results"].get("training"),
        "computes": seen["results"].get("numerics", {}).get("words"),
        "sample": _sample(seen["results"]),
        "preflight": _preflight(seen["results"]),
        "sweep": _sweep(seen["results"]),
        "load": _load(seen["results"]),
        "quantized": QuantizeReport.told(seen["results"].get(QUANTIZED)),
        "files": _files(seen),
        "settings": _settings(job.spec),
        "ds_config": _ds_config(job.spec),
    }
    return render(request, "jobs/_state.html" if request.GET.get("part") == "state" else "jobs/job.html", context)


def _comparison(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures before and after, a row each; empty until there are any."""
    before, after = results.get("test_before", {}), results.get("test_after", {})
    return [
        {"name": name, "before": before.get(key), "after": after.get(key)}
        for key, name in RESULT_ROWS
        if before.get(key) is not None or after.get(key) is not None
    ]


def _sample(results: dict[str, Any]) -> dict[str, Any] | None:
    before, after = results.get("test_before", {}).get("sample"), results.get("test_after", {}).get("sample")
    if not before and not after:
        return None
    shown = after or before
    return {
        "prompt": shown.get("prompt"),
        "expected": shown.get("expected"),
        "before": (before or {}).get("answer"),
        "after": (after or {}).get("answer"),
    }


def _preflight(results: dict[str, Any]) -> dict[str, Any] | None:
    """Lines, worst state and their count in words; None before a preflight's report, or for one that is none."""
    report = Report.told(results.get(RESULT))
    if report is None:
        return None
    states = [line.state for line in report.lines]
    counted = [f"{states.count(state)} {state}" for state in ("fail", "warn", "ok") if state in states]
    return {"lines": report.lines, "state": report.state, "counted": ", ".join(counted)}


def _sweep(results: dict[str, Any]) -> Drawing | None:
    """An all-reduce sweep as it is drawn; None before its result, or for one that is none."""
    sweep = Sweep.told(results.get(SWEEP))
    return drawing(sweep, rules()) if sweep else None


def _load(results: dict[str, Any]) -> load_chart.Drawing | None:
    """A load test as it is drawn; None before its first step, or for what is none."""
    report = LoadReport.told(results.get(LOAD_TEST))
    return load_chart.drawing(report) if report else None


def _files(seen: dict[str, Any]) -> list[dict[str, Any]]:
    """Every file of every artifact, with the link that downloads it."""
    found = []
    for artifact in seen["artifacts"]:
        try:
            names = list_artifact(artifact["uri"])
        except (OSError, UnsafeURI):
            names = []
        base = f"/api/v1/jobs/{seen['id']}/artifacts/{artifact['attempt']}/{artifact['name']}"
        found += [
            {"name": name, "bytes": size, "kind": artifact["kind"], "href": f"{base}?{urlencode({'file': name})}"}
            for name, size in names
        ]
    return found


def _ds_config(spec: dict[str, Any]) -> str:
    """What its ds_config.json says; '' for a job that has none."""
    return ds_config_text(FinetuneSpec.model_validate(spec)) if spec.get("deepspeed") else ""


def _settings(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """(name as REST calls it, value in words) of all that was set or left at its default."""
    return [
        (name.replace("__", "."), {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(shown(value)))
        for name, value in flat(spec)
        if name not in NOT_ASKED and value not in (None, "", {})
    ]
