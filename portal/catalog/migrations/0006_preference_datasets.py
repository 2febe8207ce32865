from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0005_dataset_shards")]
    operations = [
        migrations.AlterField(
            "dataset",
            "format",
            models.CharField(
                choices=[
                    ("messages", "Chat messages"),
                    ("prompt_completion", "Prompt and completion"),
                    ("text", "Text"),
                    ("text_label", "Text and label"),
                    ("preference", "Prompt, chosen and rejected"),
                ],
                max_length=20,
            ),
        ),
    ]
