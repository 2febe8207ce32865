"""Admin pages of models, datasets and adapters. What they are was measured, so it is read-only here."""

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from portal.admin_base import ReadOnlyAdmin, ReadOnlyInline, size
from portal.catalog import services
from portal.catalog.models import Adapter, Dataset, ModelProfile
from workers.contract.errors import Refused


class AdapterInline(ReadOnlyInline):
    """Adapters made of it."""

    model = Adapter
    fields = ("name", "dataset", "job_number", "created_at")
    show_change_link = True


@admin.register(ModelProfile)
class ModelProfileAdmin(ReadOnlyAdmin[ModelProfile]):
    """Model profiles; whether their own code may run is decided here, revision by revision."""

    list_display = (
        "name", "source", "architecture", "parameters", "context_length", "disk", "dtype", "licence", "remote_code",
    )  # fmt: skip
    list_filter = ("source", "architecture", "licence")
    search_fields = ("name", "uri", "architecture", "licence")
    inlines = (AdapterInline,)
    actions = ("approve_remote_code", "withdraw_remote_code")

    @admin.display(description="On disk", ordering="disk_bytes")
    def disk(self, model: ModelProfile) -> str:
        return size(model.disk_bytes)

    @admin.display(boolean=True, description="Remote code approved")
    def remote_code(self, model: ModelProfile) -> bool:
        return model.remote_code_approved

    @admin.action(description="Approve remote code at the present revision", permissions=["approve"])
    def approve_remote_code(self, request: HttpRequest, models: QuerySet[ModelProfile]) -> None:
        self._set(request, models, approved=True)

    @admin.action(description="Withdraw the approval of remote code", permissions=["approve"])
    def withdraw_remote_code(self, request: HttpRequest, models: QuerySet[ModelProfile]) -> None:
        self._set(request, models, approved=False)

    def _set(self, request: HttpRequest, models: QuerySet[ModelProfile], *, approved: bool) -> None:
        assert isinstance(request.user, User)
        for model in models:
            try:
                services.set_remote_code(request.user, model, approved)
            except Refused as refused:
                self.message_user(request, f"{model.name}: {refused}", messages.ERROR)
            else:
                what = f"approved at {model.revision}" if approved else "withdrawn"
                self.message_user(request, f"{model.name}: remote code {what}.", messages.SUCCESS)

    def has_approve_permission(self, request: HttpRequest) -> bool:
        """Those who may change models, though no field of one can be changed."""
        return request.user.has_perm("catalog.change_modelprofile")


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin[Dataset]):
    """Validated datasets."""

    list_display = ("name", "format", "train_rows", "test_rows", "adapter_count", "source", "created_at")
    list_filter = ("format", "created_at")
    search_fields = ("name", "source", "sha256")
    inlines = (AdapterInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Dataset]:
        return super().get_queryset(request).annotate(made=Count("adapters"))

    @admin.display(description="Adapters", ordering="made")
    def adapter_count(self, dataset: Dataset) -> int:
        return int(getattr(dataset, "made", 0))


@admin.register(Adapter)
class AdapterAdmin(ReadOnlyAdmin[Adapter]):
    """Adapters and where they came from."""

    list_display = ("name", "base_model", "dataset", "job_number", "disk", "created_at")
    list_filter = ("base_model", "dataset", "created_at")
    list_select_related = ("base_model", "dataset")
    search_fields = ("name", "base_model__name", "dataset__name", "sha256")

    @admin.display(description="On disk", ordering="disk_bytes")
    def disk(self, adapter: Adapter) -> str:
        return size(adapter.disk_bytes)
