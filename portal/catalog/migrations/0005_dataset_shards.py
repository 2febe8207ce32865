from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0004_forget_folder_hashes")]
    operations = [
        migrations.AddField(
            "dataset",
            "shards",
            models.JSONField(blank=True, default=list, help_text="The first shards: name and bytes."),
        ),
        migrations.AddField(
            "dataset",
            "shard_count",
            models.PositiveIntegerField(default=0, help_text="0: the training split is one file of the store."),
        ),
        migrations.AddField(
            "dataset", "disk_bytes", models.PositiveBigIntegerField(default=0, help_text="Of all shards.")
        ),
        migrations.AlterField(
            "dataset", "train_rows", models.PositiveBigIntegerField(help_text="About, where there are shards.")
        ),
        migrations.AlterField(
            "dataset",
            "sha256",
            models.CharField(
                help_text="Over the canonical rows of both splits, or names and sizes of shards.", max_length=64
            ),
        ),
    ]
