"""Hashes of model folders that were registered before nodes checked them were counted in another way: forget them."""

from typing import Any

from django.db import migrations


def forget(apps: Any, _: Any) -> None:
    models = apps.get_model("catalog", "ModelProfile")
    models.objects.filter(source="safetensors", job_number=None).exclude(sha256="").update(sha256="")


class Migration(migrations.Migration):
    dependencies = [("catalog", "0003_model_lineage")]
    operations = [migrations.RunPython(forget, migrations.RunPython.noop)]
