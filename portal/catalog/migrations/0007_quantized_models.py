from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("catalog", "0006_preference_datasets"),
    ]

    operations = [
        migrations.AddField(
            model_name="modelprofile",
            name="measured",
            field=models.JSONField(blank=True, help_text="Of quantized weights: what their job measured.", null=True),
        ),
    ]
