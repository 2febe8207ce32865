from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0007_replicas"),
    ]

    operations = [
        migrations.AddField(
            model_name="attempt",
            name="resumed_step",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="The step it went on from, as the node said; 0 for one that began anew.",
                null=True,
            ),
        ),
    ]
