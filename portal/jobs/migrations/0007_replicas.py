import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0006_members"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="replica_of",
            field=models.ForeignKey(
                blank=True,
                help_text="The launch whose further copy it is.",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="replicas",
                to="jobs.job",
            ),
        ),
    ]
