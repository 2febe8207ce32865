"""Writes where launched models answer, and what load tests of them found. Knows nothing of what is asked of them."""

import logging
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from django.utils import timezone
from pydantic import ValidationError

from portal.accounts.services import audit
from portal.jobs.models import Attempt
from portal.serving.models import Endpoint, LoadTest
from workers.contract.launch import LaunchSpec
from workers.contract.load_report import LoadReport

log = logging.getLogger(__name__)


def mark_ready(attempt: Attempt, url: str, model_name: str) -> Endpoint | None:
    """Record that the attempt's server answers at `url`; saying it again changes nothing.

    The word comes from a worker, so only http://host:port on the address its node is registered with is believed:
    the portal will call that URL. Anything else is written to the log and the audit log, and None is returned.
    """
    reason = distrust(url, attempt.node.address)
    if reason:
        log.warning("job %s attempt %s: endpoint %r refused: %s", attempt.job_id, attempt.number, url, reason)
        audit(None, "refuse endpoint", f"job #{attempt.job_id} attempt {attempt.number}", f"{url[:200]}: {reason}")
        return None
    endpoint, _ = Endpoint.objects.update_or_create(
        attempt=attempt, defaults={"url": url.rstrip("/"), "model_name": model_name[:80]}
    )
    return endpoint


def mark_asked(endpoint: Endpoint) -> None:
    """It has a request, so its launch is not idle."""
    Endpoint.objects.filter(pk=endpoint.pk).update(asked_at=timezone.now())


def record_load_test(attempt: Attempt, values: dict[str, Any], engine: str) -> None:
    """Keep what a load test has found so far, in place of what it said before.

    `values`: contract LoadReport as its event carries it; one that is none is dropped with a warning. `engine`: what
    the launch said of itself; '' where it said nothing.
    """
    asked = attempt.order.get("target") or {}
    launches = Attempt.objects.select_related("job")
    tested = launches.filter(job=asked.get("job", 0), number=asked.get("attempt", 0)).first()
    try:
        report = LoadReport.model_validate(values)
    except ValidationError as error:
        log.warning("the load test of job %s attempt %s was dropped: %s", attempt.job_id, attempt.number, error)
        return
    if tested is None:
        log.warning("the load test of job %s asked no launch that is known here", attempt.job_id)
        return
    spec = LaunchSpec.model_validate(tested.job.spec)
    LoadTest.objects.update_or_create(
        attempt=attempt,
        defaults={
            "launch": tested.job,
            "model": spec.model,
            "served_as": asked["model"][:80],
            "engine": engine[:40],
            "quantization": spec.quantization,
            "devices": _in_words(tested)[:300],
            "report": report.model_dump(mode="json"),
            "at": datetime.fromtimestamp(report.at, UTC),
        },
    )


def _in_words(launch: Attempt) -> str:
    """Its devices, alike ones together: '2 × NVIDIA H100'."""
    names = Counter(device.get("name") or device["kind"] for device in launch.order.get("devices", ()))
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in names.items())


def distrust(url: str, address: str) -> str:
    """Why the portal must not call `url` for a node at `address`; empty when it may."""
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port
    except ValueError:
        return "it is not a URL."
    if len(url) > 300:
        return f"{len(url)} characters are more than the 300 a URL may have here."
    if split.scheme != "http":
        return f"its scheme is {split.scheme!r}; use http://."
    if host is None or host != address.strip("[]").lower():
        return f"its host is {host!r}, but the node is registered at {address!r}."
    if port is None:
        return "it names no port."
    if split.username is not None or split.path not in ("", "/") or split.query or split.fragment:
        return "it holds more than http://host:port."
    return ""
