"""Reads the catalog. Writes nothing."""

from django.db.models import QuerySet

from portal.catalog.models import Adapter, Dataset, ModelProfile


def models() -> QuerySet[ModelProfile]:
    """Every model profile, by name."""
    return ModelProfile.objects.select_related("base_model").order_by("name")


def datasets() -> QuerySet[Dataset]:
    """Every dataset, by name."""
    return Dataset.objects.order_by("name")


def adapters() -> QuerySet[Adapter]:
    """Every adapter, newest first."""
    return Adapter.objects.select_related("base_model", "dataset").order_by("-created_at")


def get_model(name: str) -> ModelProfile:
    """One model profile. Raises ModelProfile.DoesNotExist."""
    return ModelProfile.objects.select_related("base_model", "trained_on").get(name=name)


def get_dataset(name: str) -> Dataset:
    """One dataset. Raises Dataset.DoesNotExist."""
    return Dataset.objects.get(name=name)


def get_adapter(name: str) -> Adapter:
    """One adapter. Raises Adapter.DoesNotExist."""
    return Adapter.objects.select_related("base_model", "dataset").get(name=name)
