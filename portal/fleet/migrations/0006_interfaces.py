from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("fleet", "0005_sweep_report"),
    ]

    operations = [
        migrations.AddField(
            model_name="node",
            name="interfaces",
            field=models.JSONField(blank=True, default=list, help_text="Contract InterfaceProfile objects."),
        ),
    ]
