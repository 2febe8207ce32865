"""Model profiles, datasets and adapters, each named by a slug and found by a URI."""

from django.core.validators import RegexValidator
from django.db import models

from workers.contract.names import SLUG

name_validator = RegexValidator(SLUG, "Use lower-case letters, digits, dots, dashes and underscores.")


class ModelProfile(models.Model):
    """A model as its own config describes it. Counts in units, sizes in bytes, lengths in tokens."""

    class Source(models.TextChoices):
        FOLDER = "safetensors", "Local folder (safetensors)"
        GGUF = "gguf", "GGUF file"
        HUB = "hub", "Hub"

    name = models.CharField(max_length=63, unique=True, validators=[name_validator])
    source = models.CharField(max_length=12, choices=Source)
    uri = models.CharField(max_length=500, help_text="store://, file:// or s3:// URI, a path, or hub://org/name.")
    revision = models.CharField(max_length=64, blank=True, help_text="Hub revision; a commit is exact.")
    architecture = models.CharField(max_length=80, blank=True)
    layers = models.PositiveIntegerField(null=True, blank=True)
    hidden_size = models.PositiveIntegerField(null=True, blank=True)
    heads = models.PositiveIntegerField(null=True, blank=True)
    kv_heads = models.PositiveIntegerField(null=True, blank=True)
    intermediate_size = models.PositiveIntegerField(null=True, blank=True)
    vocab_size = models.PositiveIntegerField(null=True, blank=True)
    context_length = models.PositiveIntegerField(null=True, blank=True, help_text="Tokens.")
    experts = models.PositiveIntegerField(null=True, blank=True, help_text="MoE experts; empty for dense models.")
    tied_embeddings = models.BooleanField(default=False)
    parameters = models.PositiveBigIntegerField(null=True, blank=True)
    disk_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    dtype = models.CharField(max_length=40, blank=True)
    licence = models.CharField(max_length=80, blank=True)
    sha256 = models.CharField(max_length=64, blank=True, help_text="Content hash; empty for hub models.")
    config = models.JSONField(default=dict, blank=True, help_text="The model's own config.")
    remote_code_revision = models.CharField(
        max_length=64,
        blank=True,
        help_text="Revision whose own Python code an admin approved to run; empty: none may run.",
    )
    base_model = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="made",
        help_text="What it was made from.",
    )
    trained_on = models.ForeignKey(
        "Dataset",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="trained_models",
        help_text="It was trained on this.",
    )
    job_number = models.PositiveBigIntegerField(null=True, blank=True, db_index=True, help_text="The job that made it.")
    measured = models.JSONField(null=True, blank=True, help_text="Of quantized weights: what their job measured.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def remote_code_approved(self) -> bool:
        """True only for the very revision that was approved."""
        return bool(self.remote_code_revision) and self.remote_code_revision == self.revision


class Dataset(models.Model):
    """A validated dataset, split once; both splits are JSON lines in the artifact store. The training split of a
    dataset in shards stays where it lies, and is known by a sample of it."""

    class Format(models.TextChoices):
        MESSAGES = "messages", "Chat messages"
        PROMPT_COMPLETION = "prompt_completion", "Prompt and completion"
        TEXT = "text", "Text"
        TEXT_LABEL = "text_label", "Text and label"
        PREFERENCE = "preference", "Prompt, chosen and rejected"

    name = models.CharField(max_length=63, unique=True, validators=[name_validator])
    format = models.CharField(max_length=20, choices=Format)
    source = models.CharField(max_length=500, help_text="File name or URI it came from.")
    train_uri = models.CharField(max_length=500)
    test_uri = models.CharField(max_length=500, blank=True)
    sha256 = models.CharField(
        max_length=64, help_text="Over the canonical rows of both splits, or names and sizes of shards."
    )
    train_rows = models.PositiveBigIntegerField(help_text="About, where there are shards.")
    test_rows = models.PositiveIntegerField(default=0)
    labels = models.JSONField(default=list, blank=True)
    preview = models.JSONField(default=list, blank=True, help_text="The first rows.")
    shards = models.JSONField(default=list, blank=True, help_text="The first shards: name and bytes.")
    shard_count = models.PositiveIntegerField(default=0, help_text="0: the training split is one file of the store.")
    disk_bytes = models.PositiveBigIntegerField(default=0, help_text="Of all shards.")
    token_histogram = models.JSONField(default=dict, blank=True, help_text="Edges and counts, tokens per row.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Adapter(models.Model):
    """A LoRA adapter and where it came from."""

    name = models.CharField(max_length=63, unique=True, validators=[name_validator])
    base_model = models.ForeignKey(ModelProfile, on_delete=models.PROTECT, related_name="adapters")
    dataset = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.SET_NULL, related_name="adapters")
    uri = models.CharField(max_length=500)
    sha256 = models.CharField(max_length=64, blank=True)
    disk_bytes = models.PositiveBigIntegerField(default=0)
    job_number = models.PositiveBigIntegerField(null=True, blank=True, db_index=True, help_text="The job that made it.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name
