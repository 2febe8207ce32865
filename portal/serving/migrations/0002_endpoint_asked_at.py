from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("serving", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="endpoint",
            name="asked_at",
            field=models.DateTimeField(
                blank=True, help_text="When it last had a request, within half a minute.", null=True
            ),
        ),
    ]
