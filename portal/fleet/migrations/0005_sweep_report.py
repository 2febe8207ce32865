import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0004_strangers")]

    operations = [
        migrations.CreateModel(
            name="SweepReport",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("job_number", models.PositiveBigIntegerField()),
                ("attempt_number", models.PositiveIntegerField()),
                ("sweep", models.JSONField()),
                ("at", models.DateTimeField(help_text="When it began, by the node's clock.")),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="sweeps", to="fleet.node"
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "indexes": [models.Index(fields=["node", "-id"], name="newest_sweep")],
                "constraints": [
                    models.UniqueConstraint(fields=("job_number", "attempt_number"), name="one_sweep_per_attempt")
                ],
            },
        ),
    ]
