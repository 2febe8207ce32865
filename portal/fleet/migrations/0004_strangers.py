from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("fleet", "0003_node_event"),
    ]

    operations = [
        migrations.AddField(
            model_name="accelerator",
            name="strangers",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text="Who holds memory of it that no live attempt explains: Stranger objects.",
            ),
        ),
    ]
