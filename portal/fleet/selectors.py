"""Reads the inventory. Writes nothing."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone

from portal.fleet.models import Node, NodeEvent, PreflightReport, SweepReport


def nodes() -> QuerySet[Node]:
    """Every node with its devices."""
    return Node.objects.prefetch_related("accelerators", "links").order_by("name")


def online_since(now: datetime) -> datetime:
    """A node that reported after this moment counts as online."""
    return now - timedelta(seconds=settings.LIFTOFF_NODE_LOST_S)


def is_online(node: Node, now: datetime | None = None) -> bool:
    """Whether the node's worker has reported within LIFTOFF_NODE_LOST_S seconds."""
    return node.last_seen_at is not None and node.last_seen_at > online_since(now or timezone.now())


def disk_is_nearly_full(node: Node) -> bool:
    """Whether its disk has less free than LIFTOFF_MIN_DISK_GIB, so that nothing new may start there."""
    return bool(node.ram_bytes) and node.disk_free_bytes < settings.LIFTOFF_MIN_DISK_GIB * 2**30


def latest_events(node: Node, limit: int = 20) -> list[NodeEvent]:
    """What happened to the node lately, the newest first."""
    return list(node.events.order_by("-id")[:limit])


def latest_preflight(node: Node) -> PreflightReport | None:
    """What the newest preflight found on the node; None before the first."""
    return node.preflights.order_by("-id").first()


def latest_sweep(node: Node) -> SweepReport | None:
    """What the newest all-reduce sweep measured on the node; None before the first."""
    return node.sweeps.order_by("-id").first()


def latest_preflights() -> dict[int, PreflightReport]:
    """Node id → its newest preflight."""
    newest = PreflightReport.objects.filter(node=OuterRef("pk")).order_by("-id").values("pk")[:1]
    ids = Node.objects.annotate(newest=Subquery(newest)).values_list("newest", flat=True)
    return {report.node_id: report for report in PreflightReport.objects.filter(pk__in=[pk for pk in ids if pk])}
