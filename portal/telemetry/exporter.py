"""/metrics of the portal in Prometheus' text format: jobs, queue, ingest lag, nodes, devices, launched models.

For programs on this machine, or with an API token. Counts what the database says.
"""

import ipaddress
import logging
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import redis
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from portal.accounts.credentials import bearer
from portal.accounts.services import authenticate
from portal.fleet.models import Accelerator
from portal.fleet.selectors import is_online, nodes
from portal.jobs.lifecycle import Status
from portal.jobs.models import Job
from portal.jobs.selectors import holders, queue_length
from portal.telemetry import launch_metrics
from portal.telemetry.ingest import lag_seconds

log = logging.getLogger(__name__)


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The figures; 401 for a client that is neither local nor has a token."""
    token = bearer(request)
    if not (_local(request) if token is None else authenticate(token)):
        answer = HttpResponse("Send Authorization: Bearer <API token>.\n", status=401, content_type="text/plain")
        answer["WWW-Authenticate"] = "Bearer"
        return answer
    registry = CollectorRegistry()
    registry.register(PortalCollector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class PortalCollector(Collector):
    """Asks the database once a scrape. Statuses that no job has are there with 0."""

    def describe(self) -> list[Metric]:
        """Nothing: registering must not query."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        build = InfoMetricFamily("liftoff_build", "The running portal.")
        build.add_metric([], {"version": _version()})
        yield build
        yield self._jobs()
        yield GaugeMetricFamily("liftoff_queue_length", "Jobs that wait for devices.", value=queue_length())
        yield from self._lag()
        yield self._nodes()
        yield self._devices()
        yield from launch_metrics.families()

    def _jobs(self) -> Metric:
        family = GaugeMetricFamily("liftoff_jobs", "Jobs by status.", labels=["status"])
        found = dict(Job.objects.order_by().values_list("status").annotate(Count("pk")))
        for status in Status:
            family.add_metric([status.value], found.get(status.value, 0))
        return family

    def _lag(self) -> Iterator[Metric]:
        """Missing, rather than wrong, while Redis can't be asked."""
        try:
            lag = lag_seconds()
        except (redis.RedisError, OSError) as error:
            log.warning("the ingest lag can't be read: %s", error)
            return
        yield GaugeMetricFamily(
            "liftoff_ingest_lag_seconds", "Age of the oldest event not recorded yet; 0 when all is recorded.", value=lag
        )

    def _nodes(self) -> Metric:
        family = GaugeMetricFamily("liftoff_nodes", "Nodes by state.", labels=["state", "online"])
        for (state, online), count in sorted(Counter((node.state, is_online(node)) for node in nodes()).items()):
            family.add_metric([state, _word(online)], count)
        return family

    def _devices(self) -> Metric:
        family = GaugeMetricFamily("liftoff_devices", "Devices by kind.", labels=["kind", "held"])
        held = holders()
        present = Accelerator.objects.filter(present=True).values_list("pk", "kind")
        for (kind, taken), count in sorted(Counter((kind, pk in held) for pk, kind in present).items()):
            family.add_metric([kind, _word(taken)], count)
        return family


def _local(request: HttpRequest) -> bool:
    """Whether the client is on this machine. A forwarded request comes from elsewhere, whoever forwards it."""
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def _word(value: bool) -> str:
    return "true" if value else "false"


def _version() -> str:
    try:
        return version("liftoff")
    except PackageNotFoundError:
        return "unknown"
