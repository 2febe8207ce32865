from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0003_leases"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="queued_at",
            field=models.DateTimeField(
                blank=True,
                help_text="When it was submitted, moved forward by the time it ran; none: not moved.",
                null=True,
            ),
        ),
    ]
