import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("fleet", "0006_interfaces"),
        ("jobs", "0005_shared_devices"),
    ]

    operations = [
        migrations.AddField(
            model_name="attempt",
            name="nodes",
            field=models.PositiveSmallIntegerField(default=1, help_text="How many it runs on; `node` is the first."),
        ),
        migrations.CreateModel(
            name="Member",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("rank", models.PositiveSmallIntegerField()),
                ("order", models.JSONField(help_text="Contract Order that was dispatched to it.")),
                (
                    "last_seq",
                    models.PositiveIntegerField(
                        default=0, help_text="Its latest event; of rank 0 the attempt's counts."
                    ),
                ),
                (
                    "output",
                    models.JSONField(
                        blank=True, default=list, help_text="Its last lines; those of rank 0 are the attempt's."
                    ),
                ),
                (
                    "parts",
                    models.JSONField(
                        blank=True, default=list, help_text="Its parts of the newest checkpoints: ResumeInputs."
                    ),
                ),
                ("lease_until", models.DateTimeField(blank=True, null=True)),
                ("reason", models.CharField(blank=True, max_length=24)),
                ("detail", models.TextField(blank=True)),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                (
                    "attempt",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="members", to="jobs.attempt"
                    ),
                ),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="memberships", to="fleet.node"
                    ),
                ),
            ],
            options={
                "ordering": ["attempt_id", "rank"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("finished_at", None)), fields=["node"], name="live_members_by_node"
                    )
                ],
                "constraints": [models.UniqueConstraint(fields=("attempt", "rank"), name="one_member_per_rank")],
            },
        ),
    ]
