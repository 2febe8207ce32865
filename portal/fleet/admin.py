"""Admin pages of the cluster inventory. Workers write what a node is; people set its labels and its state."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from portal.accounts.services import audit
from portal.admin_base import ModelAdmin, ReadOnlyAdmin, ReadOnlyInline, badge, size
from portal.fleet import services
from portal.fleet.models import Accelerator, Link, Node, NodeEvent, PreflightReport, SweepReport
from portal.fleet.selectors import is_online, online_since


class OnlineFilter(admin.SimpleListFilter):
    """Nodes whose worker reports, or doesn't."""

    title = "online"
    parameter_name = "online"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Yes"), ("no", "No")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Node]) -> QuerySet[Node]:
        online = Q(last_seen_at__gt=online_since(timezone.now()))
        match self.value():
            case "yes":
                return queryset.filter(online)
            case "no":
                return queryset.exclude(online)
            case _:
                return queryset


class NodeForm(forms.ModelForm):  # type: ignore[type-arg]
    """The labels, which must be names with text values."""

    def clean_labels(self) -> dict[str, str]:
        labels = self.cleaned_data["labels"] or {}
        texts = isinstance(labels, dict) and all(isinstance(value, str) for value in labels.values())
        if not texts:
            raise forms.ValidationError('Labels are one object of texts, e.g. {"zone": "a"}.')
        checked: dict[str, str] = labels
        return checked


class AcceleratorInline(ReadOnlyInline):
    """The node's devices."""

    model = Accelerator
    fields = ("kind", "index", "name", "memory", "power_limit_w", "compute_capability", "present")
    readonly_fields = ("memory",)

    @admin.display(description="Memory")
    def memory(self, accelerator: Accelerator) -> str:
        return size(accelerator.memory_bytes)


class LinkInline(ReadOnlyInline):
    """How its devices reach each other."""

    model = Link
    fields = ("a", "b", "kind", "detail")


@admin.register(Node)
class NodeAdmin(ModelAdmin[Node]):
    """One machine a row; drain and resume as actions."""

    form = NodeForm
    list_display = ("name", "online", "shown_state", "devices", "free", "ram", "driver", "last_seen_at")
    list_filter = ("state", OnlineFilter, "accelerators__kind")
    search_fields = ("name", "address", "driver", "accelerators__name")
    fields = (
        "name", "address", "state", "labels", "cores", "ram", "disk_free", "disk_read", "driver", "cuda", "versions",
        "last_seen_at", "created_at",
    )  # fmt: skip
    readonly_fields = tuple(name for name in fields if name != "labels")
    inlines = (AcceleratorInline, LinkInline)
    actions = ("drain", "resume")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Node]:
        present = Q(accelerators__present=True)
        held = present & Q(accelerators__allocations__isnull=False, accelerators__allocations__released_at=None)
        return (
            super()
            .get_queryset(request)
            .annotate(
                device_count=Count("accelerators", filter=present, distinct=True),
                held_count=Count("accelerators", filter=held, distinct=True),
            )
        )

    @admin.display(boolean=True, description="Online", ordering="last_seen_at")
    def online(self, node: Node) -> bool:
        return is_online(node)

    @badge("State", "state")
    def shown_state(self, node: Node) -> tuple[str, str]:
        return node.state, node.get_state_display()

    @admin.display(description="Devices", ordering="device_count")
    def devices(self, node: Any) -> int:
        return int(node.device_count)

    @admin.display(description="Free")
    def free(self, node: Any) -> int:
        return int(node.device_count - node.held_count)

    @admin.display(description="RAM", ordering="ram_bytes")
    def ram(self, node: Node) -> str:
        return size(node.ram_bytes)

    @admin.display(description="Disk free")
    def disk_free(self, node: Node) -> str:
        return size(node.disk_free_bytes)

    @admin.display(description="Disk read")
    def disk_read(self, node: Node) -> str:
        return "–" if node.disk_read_bytes_per_s is None else f"{size(int(node.disk_read_bytes_per_s))}/s"

    @admin.action(description="Drain: let nothing new start", permissions=["change"])
    def drain(self, request: HttpRequest, nodes: QuerySet[Node]) -> None:
        self._set(request, nodes, Node.State.DRAINING)

    @admin.action(description="Resume: let jobs start again", permissions=["change"])
    def resume(self, request: HttpRequest, nodes: QuerySet[Node]) -> None:
        self._set(request, nodes, Node.State.ACTIVE)

    def _set(self, request: HttpRequest, nodes: QuerySet[Node], state: Node.State) -> None:
        assert isinstance(request.user, User)
        names = []
        for node in nodes:
            services.set_state(request.user, node, state)
            names.append(node.name)
        self.message_user(request, f"{state.label}: {', '.join(names)}.", messages.SUCCESS)

    def save_model(self, request: HttpRequest, obj: Node, form: Any, change: bool) -> None:
        """Write the labels alone, so that what the worker reports meanwhile stays."""
        assert isinstance(request.user, User)
        obj.save(update_fields=["labels"])
        audit(request.user, "label node", f"node {obj.name}", str(obj.labels))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A node adds itself when its worker starts."""
        return False


@admin.register(Accelerator)
class AcceleratorAdmin(ReadOnlyAdmin[Accelerator]):
    """Every device of the cluster."""

    list_display = ("name", "node", "kind", "index", "memory", "power_limit_w", "compute_capability", "present")
    list_filter = ("kind", "present", "node", "name")
    list_select_related = ("node",)
    search_fields = ("name", "uuid", "node__name")

    @admin.display(description="Memory", ordering="memory_bytes")
    def memory(self, accelerator: Accelerator) -> str:
        return size(accelerator.memory_bytes)


@admin.register(Link)
class LinkAdmin(ReadOnlyAdmin[Link]):
    """Every link between two devices."""

    list_display = ("node", "a", "b", "kind", "detail")
    list_filter = ("kind", "node")
    list_select_related = ("node",)
    search_fields = ("node__name", "kind", "detail")


@admin.register(PreflightReport)
class PreflightReportAdmin(ReadOnlyAdmin[PreflightReport]):
    """What each preflight found."""

    list_display = ("node", "shown_state", "troubles", "job_number", "attempt_number", "took_s", "at")
    list_filter = ("state", "node", "at")
    list_select_related = ("node",)
    search_fields = ("node__name", "=job_number")
    date_hierarchy = "at"

    @badge("State", "state")
    def shown_state(self, report: PreflightReport) -> tuple[str, str]:
        return report.state, report.get_state_display()

    @admin.display(description="Not ok")
    def troubles(self, report: PreflightReport) -> str:
        return ", ".join(line["name"] for line in report.lines if line["state"] != "ok")


@admin.register(SweepReport)
class SweepReportAdmin(ReadOnlyAdmin[SweepReport]):
    """What each all-reduce sweep measured."""

    list_display = ("node", "job_number", "attempt_number", "at")
    list_filter = ("node", "at")
    list_select_related = ("node",)
    search_fields = ("node__name", "=job_number")
    date_hierarchy = "at"


@admin.register(NodeEvent)
class NodeEventAdmin(ReadOnlyAdmin[NodeEvent]):
    """What happened to the nodes."""

    list_display = ("node", "text", "at")
    list_filter = ("node", "at")
    list_select_related = ("node",)
    search_fields = ("node__name", "text")
    date_hierarchy = "at"
