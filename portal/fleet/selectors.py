"""Reads the inventory. Writes nothing."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from portal.fleet.models import Node


def nodes() -> QuerySet[Node]:
    """Every node with its devices."""
    return Node.objects.prefetch_related("accelerators", "links").order_by("name")


def online_since(now: datetime) -> datetime:
    """A node that reported after this moment counts as online."""
    return now - timedelta(seconds=settings.LIFTOFF_NODE_LOST_S)


def is_online(node: Node, now: datetime | None = None) -> bool:
    """Whether the node's worker has reported within LIFTOFF_NODE_LOST_S seconds."""
    return node.last_seen_at is not None and node.last_seen_at > online_since(now or timezone.now())
