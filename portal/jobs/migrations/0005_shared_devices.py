from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0004_queued_at"),
    ]

    operations = [
        migrations.AddField(
            model_name="allocation",
            name="reserved_bytes",
            field=models.PositiveBigIntegerField(
                blank=True,
                help_text="It shares the device and is planned to take so much of it; none: all of it.",
                null=True,
            ),
        ),
        migrations.RemoveConstraint(
            model_name="allocation",
            name="one_live_holder_per_device",
        ),
        migrations.AddConstraint(
            model_name="allocation",
            constraint=models.UniqueConstraint(
                condition=models.Q(("released_at__isnull", True), ("reserved_bytes__isnull", True)),
                fields=("accelerator",),
                name="one_lone_holder_per_device",
            ),
        ),
    ]
