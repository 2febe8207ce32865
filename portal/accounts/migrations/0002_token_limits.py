from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="apitoken",
            name="requests_per_minute",
            field=models.PositiveIntegerField(
                blank=True, help_text="Of launched models; empty: as for all tokens, 0: no limit.", null=True
            ),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="concurrent_requests",
            field=models.PositiveIntegerField(
                blank=True, help_text="Of launched models; empty: as for all tokens, 0: no limit.", null=True
            ),
        ),
    ]
